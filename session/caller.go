package session

import (
	"fmt"
	"slices"
	"strings"
)

// Scope is a sort of thing that a caller may do.
type Scope string

// The scopes. Admin has the other two in it, and every session.
const (
	ScopeSubmit Scope = "submit" // give tasks, and end, reset and delete what is its own
	ScopeRead   Scope = "read"   // read what is its own
	ScopeAdmin  Scope = "admin"
)

// Scopes lists every Scope.
var Scopes = []Scope{ScopeSubmit, ScopeRead, ScopeAdmin}

// Caller is who asks for something. The zero Caller is the runner's owner, who
// may do everything: whoever sends a key of the configuration, and everybody
// where no keys are asked for.
type Caller struct {
	KeyID  string   // of its API key; "": the runner's owner
	Name   string   // for people
	Scopes []Scope  // of no use to the runner's owner
	Agents []string // that it may use; none: every one
	Rate   int      // submits per minute; 0: no limit
}

// Caller returns who calls with the key.
func (k APIKey) Caller() Caller {
	return Caller{KeyID: k.ID, Name: k.Name, Scopes: k.Scopes, Agents: k.Agents, Rate: k.Rate}
}

// May reports whether the caller has a scope.
func (c Caller) May(s Scope) bool {
	return c.KeyID == "" || slices.Contains(c.Scopes, s) || slices.Contains(c.Scopes, ScopeAdmin)
}

// MayUse reports whether the caller may use an agent.
func (c Caller) MayUse(agent string) bool {
	return len(c.Agents) == 0 || slices.Contains(c.Agents, agent)
}

// sees reports whether what is owner's is there for the caller.
func (c Caller) sees(owner string) bool { return c.May(ScopeAdmin) || c.KeyID == owner }

// only is the owner of all that the caller sees, as filters take it: "" for
// one who sees everything.
func (c Caller) only() string {
	if c.May(ScopeAdmin) {
		return ""
	}
	return c.KeyID
}

// checkAgent refuses an agent that is not for the caller, in the words for one
// that is not there at all.
func (c Caller) checkAgent(name string, p Profiles) error {
	if c.MayUse(name) {
		return nil
	}
	var may []string
	for _, agent := range c.Agents {
		if _, ok := p.ByName[agent]; ok {
			may = append(may, agent)
		}
	}
	return &Error{Code: CodeNoAgent, Field: "agent", Message: fmt.Sprintf(
		"there is no agent %q for this key; it may use %s", name, orNone(strings.Join(may, ", ")))}
}

func orNone(list string) string {
	if list == "" {
		return "none of those in the configuration"
	}
	return list
}

// visible returns p without the agents that are not for the caller.
func (c Caller) visible(p Profiles) Profiles {
	out := Profiles{Default: p.Default, ByName: map[string]Profile{}}
	for name, profile := range p.ByName {
		if c.MayUse(name) {
			out.ByName[name] = profile
		}
	}
	return out
}
