package gateway

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"claude-runner/agent"
)

const (
	maxBody      = 64 << 20         // of a model call
	bodyTimeout  = 2 * time.Minute  // to send it
	writeTimeout = 2 * time.Minute  // for the sandbox to take a piece of an answer
	silence      = 10 * time.Minute // of an upstream within an answer
	maxErrorBody = 256 << 10
	maxModel     = 200 // bytes of a model's id
)

// model answers a request in origin form: a call of the Messages API.
func (l *lease) model(w http.ResponseWriter, r *http.Request, c *config) {
	route := r.Method + " " + r.URL.Path
	switch route {
	case "HEAD /":
		return // the CLI looks whether somebody is there
	case "POST /v1/messages", "POST /v1/messages/count_tokens", "GET /v1/models":
	default:
		refuseModel(w, http.StatusNotFound, "not_found_error", "The gateway has no "+route+": it forwards POST /v1/messages, POST /v1/messages/count_tokens and GET /v1/models.")
		return
	}
	if !c.admits(r.Header) {
		refuseModel(w, http.StatusUnauthorized, "authentication_error", "The token is not this sandbox's.")
		return
	}
	if len(c.Upstreams) == 0 && !c.Rehearsal {
		refuseModel(w, http.StatusBadGateway, "api_error", "The runner has no Messages API for this sandbox.")
		return
	}
	call := modelCall{lease: l, config: c, in: r, metered: route == "POST /v1/messages"}
	if r.Method == http.MethodPost {
		release, ok := call.read(w)
		defer release()
		if !ok {
			return
		}
	}
	if c.Rehearsal {
		call.rehearse(w)
		return
	}
	call.forward(w)
}

// admits reports whether the request carries the lease's token.
func (c *config) admits(h http.Header) bool {
	bearer, _ := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	token := []byte(c.Token.Reveal())
	return subtle.ConstantTimeCompare([]byte(h.Get("X-Api-Key")), token)|subtle.ConstantTimeCompare([]byte(bearer), token) == 1
}

// modelCall is one request of the sandbox, which may be sent several times.
type modelCall struct {
	lease   *lease
	config  *config
	in      *http.Request
	body    []byte
	model   string // what is asked for
	metered bool
	meter   *meter // where it is metered
}

// read takes in the body, or refuses it. release gives back the room that it
// takes, at the latest when the call is over.
func (call *modelCall) read(w http.ResponseWriter) (release func(), ok bool) {
	release, err := call.lease.room(call.in)
	if err != nil {
		return release, false // the client left
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout))
	call.body, err = readAll(http.MaxBytesReader(w, call.in.Body, maxBody), call.in.ContentLength)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		refuseModel(w, http.StatusRequestEntityTooLarge, "request_too_large", "The request has more than 64 MiB.")
		return release, false
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the client left, or is too slow
	}
	_ = control.SetReadDeadline(time.Time{})
	scan := newFieldScanner("model")
	scan.feed(call.body)
	bad := !scan.done || scan.bad || scan.repeated
	if bad || json.Unmarshal(scan.values["model"], &call.model) != nil || call.model == "" || len(call.model) > maxModel {
		refuseModel(w, http.StatusBadRequest, "invalid_request_error", "The request is no JSON object with one model.")
		return release, false
	}
	if c := call.config; !c.allowsModel(call.model) {
		refuseModel(w, http.StatusForbidden, "permission_error", fmt.Sprintf("The model %q is not allowed here: %s.", call.model, strings.Join(c.Models, ", ")+" may be used"))
		return release, false
	}
	return release, true
}

// readAll is io.ReadAll with a guess of the size.
func readAll(r io.Reader, size int64) ([]byte, error) {
	const first = 1 << 20 // a guess beyond is believed when it comes
	var b bytes.Buffer
	b.Grow(int(min(max(size, 0), first)) + bytes.MinRead)
	_, err := b.ReadFrom(r)
	return b.Bytes(), err
}

func (c *config) allowsModel(model string) bool {
	return len(c.Models) == 0 || slices.Contains(c.Models, model) || slices.Contains(c.Models, agent.WithoutDate(model))
}

// forward tries one upstream after the other until one has an answer.
func (call *modelCall) forward(w http.ResponseWriter) {
	g, c := call.lease.gateway, call.config
	if call.metered {
		call.meter = g.ledger.meter(c.Meter)
		defer g.ledger.begin(call.meter)()
	}
	ctx, cancel := context.WithCancelCause(call.in.Context())
	defer cancel(nil)
	order := g.ups.order(c.Upstreams)
	for i, api := range order {
		last := i == len(order)-1
		if call.overBudget(w) {
			return
		}
		answer, connected, err := g.ups.send(ctx, api, call.in, call.body)
		if err != nil {
			if call.in.Context().Err() != nil {
				if connected {
					call.record(cut, tally{model: call.model})
				}
				panic(http.ErrAbortHandler) // nobody waits for the answer
			}
			call.record(failed, tally{model: call.model})
			g.log.Warn("a Messages API does not answer", "lease", c.ID, "error", mask(api, err.Error()))
			if !connected {
				g.ups.setAside(api, "")
				if !last {
					continue
				}
			}
			refuseModel(w, http.StatusBadGateway, "api_error", "The Messages API does not answer: "+mask(api, err.Error()))
			return
		}
		if setsAside(answer.StatusCode) {
			g.ups.setAside(api, answer.Header.Get("Retry-After"))
			if !last {
				call.record(failed, tally{model: call.model})
				drain(answer.Body)
				continue
			}
		}
		call.relay(w, answer, api, cancel)
		return
	}
}

// setsAside says whether an answer is a reason to ask another upstream.
func setsAside(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusTooManyRequests || status == 529
}

// overBudget refuses the call where a budget has no room.
func (call *modelCall) overBudget(w http.ResponseWriter) bool {
	if !call.metered {
		return false
	}
	e := call.lease.gateway.ledger.exceeded(call.meter, call.config.Budgets)
	if e == nil {
		return false
	}
	refuseModel(w, http.StatusForbidden, "permission_error",
		fmt.Sprintf("The budget %s is spent: $%.4f of $%.4f. Raise it to go on.", e.Budget, e.SpentUSD, e.LimitUSD))
	return true
}

func (call *modelCall) record(how fate, t tally) {
	if call.metered {
		call.lease.gateway.ledger.record(call.meter, call.config, how, t)
	}
}

// relay passes an answer on.
func (call *modelCall) relay(w http.ResponseWriter, answer *http.Response, api agent.ModelAPI, cancel context.CancelCauseFunc) {
	defer answer.Body.Close()
	header := w.Header()
	for name, values := range forwarded(answer.Header) {
		for _, value := range values {
			header.Add(name, mask(api, value))
		}
	}
	header.Del("Set-Cookie")
	if answer.StatusCode != http.StatusOK {
		call.relayError(w, answer, api)
		return
	}
	if encoding := answer.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		call.record(failed, tally{model: call.model})
		clear(header)
		refuseModel(w, http.StatusBadGateway, "api_error", "The Messages API answers in the encoding "+strconv.Quote(encoding)+", though it was asked for none.")
		return
	}
	var usage reader = newJSONReader(call.model)
	if strings.HasPrefix(answer.Header.Get("Content-Type"), "text/event-stream") {
		usage = newEventReader(call.model)
	}
	w.WriteHeader(answer.StatusCode)
	p := pipe{call: call, w: w, control: http.NewResponseController(w), usage: usage, left: answer.ContentLength}
	if !p.run(answer.Body, cancel) {
		panic(http.ErrAbortHandler) // the client is to see that it is not whole
	}
}

func (call *modelCall) relayError(w http.ResponseWriter, answer *http.Response, api agent.ModelAPI) {
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxErrorBody))
	call.record(failed, tally{model: call.model})
	if err != nil && len(body) == 0 {
		panic(http.ErrAbortHandler)
	}
	text := mask(api, string(body))
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(answer.StatusCode)
	_, _ = io.WriteString(w, text)
}

// pipe carries an answer to the sandbox piece by piece as it comes, and reads
// the usage from it on the way.
type pipe struct {
	call     *modelCall
	w        io.Writer
	control  *http.ResponseController
	usage    reader
	left     int64 // bytes of the answer to come; less than 0: not known
	recorded bool
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// run reports whether the answer came to its end.
func (p *pipe) run(from io.Reader, cancel context.CancelCauseFunc) bool {
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	defer p.record(cut) // unless it was recorded before
	watch := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watch.Stop()
	defer func() { _ = p.control.SetWriteDeadline(time.Time{}) }() // the connection's next answer has its own
	if p.control.Flush() != nil {                                  // the headers
		return false
	}
	for {
		n, err := from.Read(buffer[:])
		watch.Reset(silence)
		if n > 0 {
			p.usage.feed(buffer[:n])
			if p.usage.whole() {
				p.record(answered) // who reads the end finds it counted
			}
			if p.left -= int64(n); p.left == 0 {
				p.record(cut) // unless it was whole
			}
			_ = p.control.SetWriteDeadline(time.Now().Add(writeTimeout))
			if _, err := p.w.Write(buffer[:n]); err != nil {
				return false
			}
			if p.control.Flush() != nil {
				return false
			}
		}
		if err != nil {
			p.record(cut)
			return err == io.EOF
		}
	}
}

var errSilent = errors.New("the Messages API is silent")

func (p *pipe) record(how fate) {
	if !p.recorded {
		p.recorded = true
		p.call.record(how, p.usage.announced())
	}
}

func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, maxErrorBody) // so that the connection can be used again
	_ = body.Close()
}

// refuseModel answers with an error as the Messages API writes them, and keeps
// the CLI from asking again where that would not help.
func refuseModel(w http.ResponseWriter, status int, kind, message string) {
	body, _ := json.Marshal(map[string]any{"type": "error", "error": map[string]string{"type": kind, "message": message}})
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if status < 500 {
		h.Set("X-Should-Retry", "false")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
