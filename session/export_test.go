package session

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"claude-runner/agent"
	"claude-runner/backends"
)

// Mask is a masker of a profile's, a task's and the model API's secrets.
type Mask struct{ masker }

func NewMask(api agent.ModelAPI, p agent.Profile, env map[string]string) Mask {
	return Mask{newMasker(secretValues([]agent.ModelAPI{api}, p, env))}
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

// Folders are a data folder's sessions.
type Folders struct{ folders }

func NewFolders(dir string) Folders { return Folders{folders{root: dir}} }

func (f Folders) Prepare() error                  { return f.prepare() }
func (f Folders) Remove(id string) error          { return f.remove(id) }
func (f Folders) Empty(ctx context.Context) error { return f.empty(ctx) }
func (f Folders) Ensure(ctx context.Context, id string, t *agent.Template, owner backends.User) error {
	return f.ensure(ctx, id, t, owner)
}

// DiskUse returns what a session's folders take.
func (f Folders) DiskUse(ctx context.Context, id string, limit int64) (int64, error) {
	dir, err := f.open(id)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	return diskUse(ctx, dir, limit)
}

// Admission is who boots, and who waits to.
type Admission struct{ *admission }

func NewAdmission(limit int) *Admission { return &Admission{newAdmission(limit)} }

func (q Admission) Enter(ctx context.Context, owner string) (func(), error) {
	return q.enter(ctx, owner, func(int) {})
}
func (q Admission) EnterSpare(ctx context.Context) (func(), error) { return q.enterSpare(ctx) }

func (q Admission) BeginTurn(ctx context.Context) (end func(), err error) {
	_, end, err = q.BeginTurnAsking(ctx, true)
	return end, err
}

// BeginTurnAsking is BeginTurn, with what the agent's having asked its model calls.
func (q Admission) BeginTurnAsking(ctx context.Context, first bool) (asked, end func(), err error) {
	b, err := q.beginTurn(ctx, first)
	if err != nil {
		return nil, nil, err
	}
	return b.asked, b.end, nil
}

// Taken says that an agent was taken that stood ready; none boots in its place for
// so long.
func (q Admission) Taken(quiet time.Duration) {
	q.quiet = quiet
	q.taken()
}

// WhenCalm has end called once no task waits for its agent.
func (q Admission) WhenCalm(end func()) { q.whenCalm(end) }

func (q Admission) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// Crowded reports whether agents wait to begin their turn.
func (q Admission) Crowded() bool { return q.crowded() }

func (q Admission) Booting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.booting
}

// PoolsOn is how warm agents stand on a backend.
func (m *Manager) PoolsOn(backend string) []PoolState { return m.poolsOn(backend) }

// IsMeasured reports whether an agent is not measured again that has waited for so
// long, is at rest for so long (0: it is not) and was measured so long ago (0: it
// was not).
func IsMeasured(waited, rested, measuredAgo time.Duration) bool {
	now := time.Now()
	p := &process{}
	p.since.Store(now.Add(-waited).UnixNano())
	if measuredAgo > 0 {
		p.memory.at = now.Add(-measuredAgo)
	}
	if rested > 0 {
		p.rested = now.Add(-rested)
	}
	return p.isMeasured()
}

// WaitingAgent is an agent that waits for a message, of which it knows nothing.
type WaitingAgent struct{ p *process }

// RestAfter is how long it waits before it is put to rest; DoneRest, where it is
// done; NapTime is how long a rest lasts that it is put to at once.
const (
	RestAfter = restAfter
	DoneRest  = doneRest
	NapTime   = napTime
)

// NewWaitingAgent returns one whose helper is told the commands.
func NewWaitingAgent(commands io.WriteCloser, done bool) WaitingAgent {
	p := &process{in: &controlledInput{to: commands, controlled: true}, base: "some"}
	if done {
		p.base = forNone
	}
	p.keep(0, nil)
	return WaitingAgent{p}
}

func (a WaitingAgent) TakeNap() { a.p.takeNap() }
func (a WaitingAgent) Expect()  { a.p.expect() }
func (a WaitingAgent) Taken()   { a.p.unkeep() }
