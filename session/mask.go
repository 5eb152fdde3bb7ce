package session

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"claude-runner/agent"
)

// masker replaces the secrets that a task was given in what the runner tells
// and writes down of it: events, answers, errors, logs. The zero masker knows
// none.
type masker struct{ find *finder }

// maskedSecret stands for a secret, or for several that overlap.
const maskedSecret = "[secret]"

// newMasker makes a masker of the values that secretValues returns.
func newMasker(values []string) masker {
	patterns := spellings(values)
	if len(patterns) == 0 {
		return masker{}
	}
	return masker{newFinder(patterns)}
}

// masks keeps the masker that was made last: most tasks know the same secrets,
// and to make one takes longer than to mask with it.
type masks struct {
	mu     sync.Mutex
	values []string // sorted
	last   masker
}

func (m *masks) of(values []string) masker {
	slices.Sort(values)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(values, m.values) {
		m.values, m.last = values, newMasker(values)
	}
	return m.last
}

// apply returns s without secrets.
func (m masker) apply(s string) string {
	if m.find == nil || !m.find.in(s) {
		return s
	}
	t := m.stream()
	return t.add(s) + t.end()
}

// json returns a JSON text without secrets: those in its strings and numbers
// are replaced by strings, and all else stays as it is.
func (m masker) json(text json.RawMessage) json.RawMessage {
	if m.find == nil || len(text) == 0 {
		return text
	}
	var out []byte
	kept := 0 // text up to here is in out
	for at := 0; at < len(text); {
		end := literalEnd(text, at)
		if end == at {
			at++
			continue
		}
		if clean, changed := m.literal(text[at:end]); changed {
			out = append(append(out, text[kept:at]...), clean...)
			kept = end
		}
		at = end
	}
	if kept == 0 {
		return text
	}
	return append(out, text[kept:]...)
}

// literalEnd returns the end of the string or number that begins at at, or at
// where none does.
func literalEnd(text []byte, at int) int {
	if text[at] == '"' {
		for i := at + 1; i < len(text); i++ {
			switch text[i] {
			case '\\':
				i++
			case '"':
				return i + 1
			}
		}
		return len(text)
	}
	end := at
	for end < len(text) && strings.IndexByte("+-.0123456789eE", text[end]) >= 0 {
		end++
	}
	if end > at && text[at] != '-' && (text[at] < '0' || text[at] > '9') {
		return at // a part of true, false or null
	}
	return end
}

// literal masks one string or number.
func (m masker) literal(text []byte) (clean []byte, changed bool) {
	value := string(text)
	if text[0] == '"' {
		if json.Unmarshal(text, &value) != nil {
			return nil, false // it was not JSON
		}
	}
	if !m.find.in(value) {
		return nil, false
	}
	clean, err := json.Marshal(m.apply(value))
	return clean, err == nil
}

// event returns e without secrets. Pieces of a text are a textMask's.
func (m masker) event(e agent.Event) agent.Event {
	if m.find == nil {
		return e
	}
	e.Text, e.Result = m.apply(e.Text), m.apply(e.Result)
	e.Input = m.json(e.Input)
	if e.Status != nil {
		status := *e.Status
		status.Message = m.apply(status.Message)
		e.Status = &status
	}
	return e
}

// result returns r without secrets.
func (m masker) result(r Result) Result {
	if m.find == nil {
		return r
	}
	r.Text, r.OutputError, r.Output = m.apply(r.Text), m.apply(r.OutputError), m.json(r.Output)
	return r
}

// eventMask masks the events of one turn, in their order. A secret may come in
// pieces: of a text, what could begin one is held back until the next piece of
// the same text, another event, or the turn's end.
type eventMask struct {
	masker
	held agent.Event // whose text it is; its own Text is empty
	text *textMask   // nil before the first piece of a text
}

// next takes the turn's next event. It returns the event that comes before it,
// which has the rest of a text, and what of it can be told now: either may be
// nil.
func (m *eventMask) next(e agent.Event) (before, now *agent.Event) {
	if m.find == nil {
		return nil, &e
	}
	if e.Type != agent.EventText && e.Type != agent.EventThinking {
		before = m.rest()
		e = m.event(e)
		return before, &e
	}
	if m.text == nil || m.held.Type != e.Type || m.held.ParentID != e.ParentID {
		before = m.rest()
		m.text, m.held = m.stream(), agent.Event{Type: e.Type, ParentID: e.ParentID}
	}
	empty := e.Text == ""
	if e.Text = m.text.add(e.Text); e.Text != "" || empty {
		now = &e
	}
	return before, now
}

// rest returns the text that is held back; nil where none is.
func (m *eventMask) rest() *agent.Event {
	if m.text == nil {
		return nil
	}
	e := m.held
	e.Text = m.text.end()
	m.text = nil
	if e.Text == "" {
		return nil
	}
	return &e
}
