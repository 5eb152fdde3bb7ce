package scripted

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"
)

// events writes one answer as server-sent events. What it writes is sent at
// once where time passes between deltas, and else when the buffer is full.
type events struct {
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	rule   *rule
	buffer bytes.Buffer
	deltas int // written so far

	started usage // what message_start announces
	flushed bool  // something was sent, and so message_start
}

var (
	errGone   = errors.New("the client or the server is gone")
	errBroken = errors.New("the script breaks the stream off here")
)

// stream sends the answer as events.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, rule *rule, out *message) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	e := &events{server: s, w: w, r: r, rule: rule}
	switch err := e.message(out); {
	case err == nil:
		s.served(out)
		_ = e.flush()
	case errors.Is(err, errBroken):
		s.record.broken(e.started, s.price(out.Model))
		e.breakOff()
	default:
		if !e.flushed {
			e.started = usage{}
		}
		s.record.broken(e.started, s.price(out.Model))
		panic(http.ErrAbortHandler)
	}
}

// message writes the whole sequence of an answer.
func (e *events) message(out *message) error {
	start := *out
	start.Content, start.StopReason = []outBlock{}, nil
	start.Usage.Output = 1
	e.started = start.Usage.usage
	e.event("message_start", struct {
		Type    string  `json:"type"`
		Message message `json:"message"`
	}{"message_start", start})
	if len(out.Content) == 0 {
		e.ping()
	}
	for i, b := range out.Content {
		if err := e.block(i, b); err != nil {
			return err
		}
	}
	if e.breaks(true) {
		return errBroken
	}
	e.event("message_delta", struct {
		Type  string    `json:"type"`
		Delta stopDelta `json:"delta"`
		Usage usage     `json:"usage"`
	}{"message_delta", stopDelta{StopReason: out.StopReason}, out.Usage.usage})
	e.event("message_stop", typed{"message_stop"})
	return nil
}

type typed struct {
	Type string `json:"type"`
}

type stopDelta struct {
	StopReason   *string `json:"stop_reason"`
	StopSequence *string `json:"stop_sequence"`
}

func (e *events) block(index int, b outBlock) error {
	empty := b
	empty.Text, empty.Signature = "", ""
	if b.Type == "tool_use" {
		empty.Input = []byte("{}")
	}
	e.event("content_block_start", struct {
		Type  string   `json:"type"`
		Index int      `json:"index"`
		Block outBlock `json:"content_block"`
	}{"content_block_start", index, empty})
	if index == 0 {
		e.ping()
	}
	if err := e.deltasOf(index, b); err != nil {
		return err
	}
	e.event("content_block_stop", struct {
		Type  string `json:"type"`
		Index int    `json:"index"`
	}{"content_block_stop", index})
	return nil
}

func (e *events) ping() { e.event("ping", typed{"ping"}) }

func (e *events) deltasOf(index int, b outBlock) error {
	kind, key, whole := "text_delta", "text", b.Text
	switch b.Type {
	case "thinking":
		kind, key = "thinking_delta", "thinking"
	case "tool_use":
		kind, key, whole = "input_json_delta", "partial_json", string(b.Input)
	}
	for piece := range pieces(whole, b.chunk) {
		if err := e.delta(index, kind, key, piece); err != nil {
			return err
		}
	}
	if b.Type == "thinking" {
		return e.delta(index, "signature_delta", "signature", b.Signature)
	}
	return nil
}

// delta writes one delta, in its time, unless the stream breaks off before it.
func (e *events) delta(index int, kind, key, value string) error {
	if e.breaks(false) {
		return errBroken
	}
	if e.rule.ChunkDelay > 0 {
		if err := e.flush(); err != nil {
			return err
		}
		if e.deltas > 0 && !e.server.wait(e.r.Context(), e.rule.ChunkDelay) {
			return errGone
		}
	}
	e.deltas++
	e.event("content_block_delta", struct {
		Type  string `json:"type"`
		Index int    `json:"index"`
		Delta any    `json:"delta"`
	}{"content_block_delta", index, newDelta(kind, key, value)})
	if e.buffer.Len() > 32<<10 {
		return e.flush()
	}
	return nil
}

// newDelta writes {"type": kind, key: value}, in that order.
func newDelta(kind, key, value string) any {
	switch key {
	case "thinking":
		return struct {
			Type string `json:"type"`
			Text string `json:"thinking"`
		}{kind, value}
	case "signature":
		return struct {
			Type string `json:"type"`
			Text string `json:"signature"`
		}{kind, value}
	case "partial_json":
		return struct {
			Type string `json:"type"`
			Text string `json:"partial_json"`
		}{kind, value}
	default:
		return struct {
			Type string `json:"type"`
			Text string `json:"text"`
		}{kind, value}
	}
}

// breaks reports whether the script breaks the stream off at this point: after
// the number of deltas that it says, or after the last one.
func (e *events) breaks(last bool) bool {
	at := -1
	switch {
	case e.rule.Fault != nil:
		at = int(e.rule.Fault.At)
	case e.rule.Error != nil:
		at = *e.rule.Error.At
	}
	return at >= 0 && (e.deltas >= at || last)
}

// breakOff writes what comes instead of the rest.
func (e *events) breakOff() {
	if failure := e.rule.Error; failure != nil {
		e.event("error", newAPIError(failure.Type, failure.Message))
		_ = e.flush()
		return
	}
	if e.rule.Fault.Kind == faultMalformed {
		e.buffer.WriteString("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\n\n")
	}
	_ = e.flush()
	e.server.breakOff(e.w, e.r, e.rule.Fault.Kind)
}

func (e *events) event(name string, v any) {
	e.buffer.WriteString("event: ")
	e.buffer.WriteString(name)
	e.buffer.WriteString("\ndata: ")
	if err := write(&e.buffer, v); err != nil {
		panic(err) // made of texts and numbers
	}
	e.buffer.WriteString("\n\n")
}

func (e *events) flush() error {
	if _, err := e.w.Write(e.buffer.Bytes()); err != nil {
		return errors.Join(errGone, err)
	}
	e.buffer.Reset()
	e.flushed = true
	if err := http.NewResponseController(e.w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errors.Join(errGone, err)
	}
	return nil
}

// pieces cuts s into texts of n characters. An empty text is one empty piece.
func pieces(s string, n int) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for {
			end := 0
			for range n {
				if end == len(s) {
					break
				}
				_, size := utf8.DecodeRuneInString(s[end:])
				end += size
			}
			if !yield(strings.ToValidUTF8(s[:end], "\ufffd")) || end == len(s) {
				return
			}
			s = s[end:]
		}
	}
}
