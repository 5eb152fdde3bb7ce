package scripted

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
)

// bodyLimit is the size of the largest request that the API takes.
const bodyLimit = 32 << 20

// messages answers POST /v1/messages.
func (s *Server) messages(w http.ResponseWriter, r *http.Request) {
	in, size, ok := s.read(w, r)
	if !ok {
		return
	}
	view := in.view()
	rule, view := s.choose(view, in)
	s.record.add(newRequest(r, in, view, size, rule), s.options.OnRequest)
	if rule == nil {
		rule = s.unmatched(view, in)
	}
	out, err := s.compose(rule, view, in, size)
	if err != nil {
		problem := fmt.Sprintf("%s: %v", rule.Name, err)
		s.record.problem(problem)
		s.record.failed()
		refuse(w, http.StatusInternalServerError, problem)
		return
	}
	if !s.wait(r.Context(), rule.Delay) {
		s.record.broken(usage{}, Price{})
		panic(http.ErrAbortHandler)
	}
	s.answer(w, r, rule, out, in.Stream)
}

// read takes in the request, or refuses it as the API does.
func (s *Server) read(w http.ResponseWriter, r *http.Request) (in *incoming, size int, ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		s.record.failed()
		refuse(w, http.StatusRequestEntityTooLarge, errorTypes[http.StatusRequestEntityTooLarge].Message)
		return nil, 0, false
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the client left
	}
	in = new(incoming)
	if err = json.Unmarshal(body, in); err != nil {
		err = fmt.Errorf("the request body is not valid JSON: %w", err)
	} else {
		err = in.valid()
	}
	if err != nil {
		s.record.failed()
		refuse(w, http.StatusBadRequest, err.Error())
		return nil, 0, false
	}
	if models := s.script.doc.Models; len(models) > 0 && !slices.Contains(models, in.Model) {
		s.record.failed()
		refuse(w, http.StatusNotFound, "model: "+in.Model)
		return nil, 0, false
	}
	return in, len(body), true
}

// choose returns the first rule that fits, and the view with what its match
// found; or no rule.
func (s *Server) choose(view View, in *incoming) (*rule, View) {
	for i := range s.script.doc.Rules {
		r := &s.script.doc.Rules[i]
		found, ok := r.Match.fit(view, in)
		if ok && s.fired.take(r, i, in) {
			return r, found
		}
	}
	return nil, view
}

// unmatched is the rule for a request that no rule fits.
func (s *Server) unmatched(view View, in *incoming) *rule {
	what := fmt.Sprintf("no rule matched: model %s, stream %t, turn %d, message %q, %d tool results",
		in.Model, in.Stream, view.Turn, shorten(view.Message, 200), len(view.ToolResults))
	if len(view.ToolResults) > 0 {
		what += fmt.Sprintf(", the last of %s: %q", view.LastTool(), shorten(view.LastToolResult(), 200))
	}
	s.record.unmatched(what)
	return &rule{Name: "unmatched", Answer: []block{{Text: &text{plain: what}}}}
}

// answer sends what the rule says in the way that the client asked for.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, rule *rule, out *message, stream bool) {
	for name, value := range rule.Headers {
		w.Header().Set(name, value)
	}
	if e := rule.Error; e != nil && (e.At == nil || !stream) {
		s.record.failed()
		if e.RetryAfter != "" {
			w.Header().Set("Retry-After", e.RetryAfter)
		}
		respondError(w, e.Status, e.Type, e.Message)
		return
	}
	switch {
	case rule.Fault != nil && rule.Fault.At == beforeHeaders:
		s.record.broken(usage{}, Price{})
		s.breakOff(w, r, rule.Fault.Kind)
	case stream:
		s.stream(w, r, rule, out)
	default:
		s.single(w, r, rule, out)
	}
}

// single answers without streaming. A fault breaks off in the middle of the
// body, whatever the rule's number of deltas.
func (s *Server) single(w http.ResponseWriter, r *http.Request, rule *rule, out *message) {
	body, err := encode(out)
	if err != nil {
		panic(err) // made of texts and numbers
	}
	w.Header().Set("Content-Type", "application/json")
	if rule.Fault == nil {
		s.served(out)
		_, _ = w.Write(body)
		return
	}
	s.record.broken(usage{}, Price{})
	_, _ = w.Write(body[:len(body)/2])
	if rule.Fault.Kind == faultHang || rule.Fault.Kind == faultCut {
		_ = http.NewResponseController(w).Flush()
	}
	s.breakOff(w, r, rule.Fault.Kind)
}

// breakOff ends an answer by a fault. What was written before has been flushed.
func (s *Server) breakOff(w http.ResponseWriter, r *http.Request, kind faultKind) {
	switch kind {
	case faultHang:
		s.hang(r.Context())
		panic(http.ErrAbortHandler)
	case faultCut:
		hangUp(w)
	case faultMalformed, faultEnd:
		// What was written is all there is.
	}
}

// hangUp closes the connection in the middle of an answer. What was sent before
// arrives: a reset could overtake it, and some clients send a request again, by
// themselves, whose answer they have seen nothing of.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // the nearest thing on HTTP/2
	}
	_ = conn.Close()
}

// countTokens answers POST /v1/messages/count_tokens.
func (s *Server) countTokens(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if err != nil || !json.Valid(body) {
		refuse(w, http.StatusBadRequest, "the request body is not valid JSON")
		return
	}
	respond(w, http.StatusOK, map[string]int64{"input_tokens": tokens(len(body))})
}

// served counts an answer. It comes before the answer's last bytes, so that who
// has read them finds them counted.
func (s *Server) served(out *message) { s.record.served(out.Usage.usage, s.price(out.Model)) }

func (s *Server) price(model string) Price {
	if price, ok := s.options.Prices[model]; ok {
		return price
	}
	return s.script.doc.Prices[model]
}

func respond(w http.ResponseWriter, status int, v any) {
	body, err := encode(v)
	if err != nil {
		panic(err) // made of texts and numbers
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// refuse answers with the error that the API gives with the status.
func refuse(w http.ResponseWriter, status int, message string) {
	respondError(w, status, errorTypes[status].Type, message)
}

func respondError(w http.ResponseWriter, status int, kind, message string) {
	respond(w, status, newAPIError(kind, message))
}

type apiError struct {
	Type  string `json:"type"`
	Error struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	} `json:"error"`
}

func newAPIError(kind, message string) apiError {
	e := apiError{Type: "error"}
	e.Error.Type, e.Error.Message = kind, message
	return e
}
