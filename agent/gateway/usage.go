package gateway

import (
	"bytes"
	"encoding/json"

	"claude-runner/agent"
)

// tally is what an answer announced of its model and tokens so far.
type tally struct {
	agent.Usage
	hour  int64 // of CacheCreationInputTokens, what stays for an hour
	model string
}

// wireUsage is usage as the Messages API writes it.
type wireUsage struct {
	Input         *int64 `json:"input_tokens"`
	Output        *int64 `json:"output_tokens"`
	CacheRead     *int64 `json:"cache_read_input_tokens"`
	CacheCreation *int64 `json:"cache_creation_input_tokens"`
	CacheCreated  struct {
		OneHour *int64 `json:"ephemeral_1h_input_tokens"`
	} `json:"cache_creation"`
}

// take replaces what u says anew: its figures are of the whole answer.
func (t *tally) take(u wireUsage) {
	for _, f := range []struct {
		to   *int64
		from *int64
	}{
		{&t.InputTokens, u.Input}, {&t.OutputTokens, u.Output}, {&t.CacheReadInputTokens, u.CacheRead},
		{&t.CacheCreationInputTokens, u.CacheCreation}, {&t.hour, u.CacheCreated.OneHour},
	} {
		if f.from != nil && *f.from >= 0 {
			*f.to = *f.from
		}
	}
}

// reader reads the usage from an answer that is passing by.
type reader interface {
	feed(p []byte) // the answer's next bytes, which are not kept
	whole() bool   // the answer is complete
	announced() tally
}

// jsonReader reads an answer that is one JSON object.
type jsonReader struct {
	scan fieldScanner
	last tally
}

func newJSONReader(model string) *jsonReader {
	return &jsonReader{scan: newFieldScanner("model", "usage"), last: tally{model: model}}
}

func (r *jsonReader) feed(p []byte) { r.scan.feed(p) }

func (r *jsonReader) whole() bool { return r.scan.done && !r.scan.bad }

func (r *jsonReader) announced() tally {
	var usage wireUsage
	if json.Unmarshal(r.scan.values["usage"], &usage) == nil {
		r.last.take(usage)
	}
	var model string
	if json.Unmarshal(r.scan.values["model"], &model) == nil && model != "" {
		r.last.model = model
	}
	return r.last
}

// maxEvent bounds what is kept of a line, and of an event. Those with usage are
// far smaller; larger ones are passed over.
const maxEvent = 1 << 20

// eventReader reads an answer that is a stream of server-sent events.
type eventReader struct {
	line     []byte // an unfinished line
	lost     bool   // it is too long to be kept
	skipLF   bool   // the last byte was a CR
	event    string // the unfinished event's name
	data     []byte // its data
	finished bool
	now      tally
}

func newEventReader(model string) *eventReader { return &eventReader{now: tally{model: model}} }

func (r *eventReader) whole() bool      { return r.finished }
func (r *eventReader) announced() tally { return r.now }

func (r *eventReader) feed(p []byte) {
	for len(p) > 0 {
		if r.skipLF {
			r.skipLF = false
			if p[0] == '\n' {
				p = p[1:]
				continue
			}
		}
		end := bytes.IndexAny(p, "\r\n")
		if end < 0 {
			r.keep(p)
			return
		}
		r.skipLF = p[end] == '\r'
		r.endLine(p[:end])
		p = p[end+1:]
	}
}

func (r *eventReader) keep(p []byte) {
	if r.lost || len(r.line)+len(p) > maxEvent {
		r.line, r.lost = nil, true
		return
	}
	r.line = append(r.line, p...)
}

// endLine ends the line with rest, which is not copied where it is all of it.
func (r *eventReader) endLine(rest []byte) {
	if len(r.line) > 0 || r.lost {
		r.keep(rest)
		rest = r.line
	}
	if !r.lost {
		r.take(rest)
	}
	r.line, r.lost = r.line[:0], false
}

var (
	eventField = []byte("event:")
	dataField  = []byte("data:")
)

func (r *eventReader) take(line []byte) {
	switch {
	case len(line) == 0:
		r.dispatch()
	case bytes.HasPrefix(line, eventField):
		r.event = string(bytes.TrimSpace(line[len(eventField):]))
	case bytes.HasPrefix(line, dataField) && r.interesting() && len(r.data)+len(line) <= maxEvent:
		r.data = append(append(r.data, line[len(dataField):]...), '\n')
	}
}

// interesting says whether the event may be about usage, or the end.
func (r *eventReader) interesting() bool {
	switch r.event {
	case "", "message_start", "message_delta", "message_stop":
		return true
	}
	return false
}

// dispatch takes in the event, which a line without text ends.
func (r *eventReader) dispatch() {
	data := r.data
	r.event, r.data = "", r.data[:0]
	if len(data) == 0 {
		return
	}
	var e struct {
		Type    string `json:"type"`
		Message struct {
			Model string    `json:"model"`
			Usage wireUsage `json:"usage"`
		} `json:"message"`
		Usage wireUsage `json:"usage"`
	}
	if json.Unmarshal(data, &e) != nil {
		return
	}
	switch e.Type {
	case "message_start":
		if e.Message.Model != "" {
			r.now.model = e.Message.Model
		}
		r.now.take(e.Message.Usage)
	case "message_delta":
		r.now.take(e.Usage)
	case "message_stop":
		r.finished = true
	}
}
