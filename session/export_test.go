package session

import (
	"encoding/json"

	"claude-runner/agent"
)

// Mask is a masker of a profile's, a task's and the model API's secrets.
type Mask struct{ masker }

func NewMask(api agent.ModelAPI, p agent.Profile, env map[string]string) Mask {
	return Mask{newMasker(secretValues(api, p, env))}
}

// MaskOf masks just these texts, in no other spelling.
func MaskOf(texts ...string) Mask { return Mask{masker{newFinder(texts)}} }

func (m Mask) Apply(s string) string                     { return m.apply(s) }
func (m Mask) JSON(text json.RawMessage) json.RawMessage { return m.json(text) }

// Pieces masks a text that comes in pieces.
func (m Mask) Pieces() (add func(string) string, end func() string) {
	t := m.stream()
	return t.add, t.end
}

// Events masks a turn's events: with each come those that are told of it.
func (m Mask) Events() (next func(agent.Event) []agent.Event, rest func() []agent.Event) {
	events := eventMask{masker: m.masker}
	list := func(events ...*agent.Event) (out []agent.Event) {
		for _, e := range events {
			if e != nil {
				out = append(out, *e)
			}
		}
		return out
	}
	return func(e agent.Event) []agent.Event { return list(events.next(e)) }, func() []agent.Event { return list(events.rest()) }
}
