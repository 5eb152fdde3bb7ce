package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"claude-runner/backends"
)

// health remembers for a few seconds what each backend's Check said, so that a
// burst of tasks asks the engine once.
type health struct {
	root   context.Context // its end is that of every question
	asking sync.WaitGroup

	mu      sync.Mutex
	answers map[string]*healthAnswer
	seen    map[string]BackendHealth
	closed  bool
}

// healthAnswer is what a backend's Check says: to everyone who asks meanwhile and
// for a while after.
type healthAnswer struct {
	given  chan struct{} // closed once the others are set
	until  time.Time
	status backends.Status
	err    error
}

const (
	healthyFor   = 10 * time.Second
	unhealthyFor = time.Second
	checkTimeout = 10 * time.Second
)

func newHealth(root context.Context) *health {
	return &health{root: root, answers: map[string]*healthAnswer{}, seen: map[string]BackendHealth{}}
}

// check returns what the backend's Check says, or said a moment ago. An asker
// whose ctx ends is told so at once, and the answer is still the others'.
func (h *health) check(ctx context.Context, b backends.Backend) (backends.Status, error) {
	a, err := h.answer(b)
	if err != nil {
		return backends.Status{}, err
	}
	select {
	case <-a.given:
		return a.status, a.err
	case <-ctx.Done():
		return backends.Status{}, context.Cause(ctx)
	}
}

// answer returns the backend's last answer where it still holds, else one that it
// is yet to give.
func (h *health) answer(b backends.Backend) (*healthAnswer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errClosing
	}
	a := h.answers[b.Name()]
	if a == nil || a.old() {
		a = &healthAnswer{given: make(chan struct{})}
		h.answers[b.Name()] = a
		h.asking.Go(func() { h.ask(b, a) })
	}
	return a, nil
}

// ask lets the backend give its answer.
func (h *health) ask(b backends.Backend, a *healthAnswer) {
	ctx, cancel := context.WithTimeout(h.root, checkTimeout)
	defer cancel()
	a.status, a.err = b.Check(ctx)
	lasts := healthyFor
	if a.err != nil {
		lasts = unhealthyFor
	}
	a.until = time.Now().Add(lasts)

	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answers[b.Name()] == a { // else the engine has failed since it was asked
		h.seen[b.Name()] = BackendHealth{Healthy: a.err == nil, At: time.Now()}
	}
	close(a.given)
}

func (a *healthAnswer) old() bool {
	select {
	case <-a.given:
		return time.Now().After(a.until)
	default:
		return false
	}
}

// close lets no question begin any more, and waits for those that have: root has ended.
func (h *health) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.asking.Wait()
}

// forget makes the next check ask the engine, which has just failed.
func (h *health) forget(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.answers, name)
	h.seen[name] = BackendHealth{At: time.Now()}
}

// BackendHealth is how a backend was when it was last needed or asked.
type BackendHealth struct {
	Healthy bool
	At      time.Time
}

// BackendHealth returns how each backend was that has been used or asked yet.
// It asks none, and returns at once.
func (m *Manager) BackendHealth() map[string]BackendHealth {
	m.health.mu.Lock()
	defer m.health.mu.Unlock()
	return maps.Clone(m.health.seen)
}

// AskBackends asks the backends on which agents would start how they are, so that
// the first task does not wait for what an engine takes to say that for the first
// time. It returns when all have answered, or ctx ends.
func (m *Manager) AskBackends(ctx context.Context) {
	first := map[string]bool{}
	for _, p := range m.Profiles().ByName {
		if len(p.Backend) > 0 {
			first[p.Backend[0]] = true
		}
	}
	var all sync.WaitGroup
	for name := range first {
		if b, ok := m.opts.Backends.Backend(name); ok {
			all.Go(func() { _, _ = m.health.check(ctx, b) }) // who needs one that is ill is told
		}
	}
	all.Wait()
}

// BackendState is what is known of a backend now.
type BackendState struct {
	Name         string
	Healthy      bool
	Error        string // how to mend it, where it is not healthy
	Status       backends.Status
	Capabilities backends.Capabilities
	Pools        []PoolState // of the agents that keep warm ones there
}

// Backends asks every backend how it is.
func (m *Manager) Backends(ctx context.Context) []BackendState {
	names := m.opts.Backends.Names()
	out := make([]BackendState, len(names))
	var g errgroup.Group
	for i, name := range names {
		g.Go(func() error {
			b, _ := m.opts.Backends.Backend(name)
			status, err := m.health.check(ctx, b)
			out[i] = BackendState{Name: name, Healthy: err == nil, Status: status, Capabilities: b.Capabilities(), Pools: m.poolsOn(name)}
			if err != nil {
				out[i].Error = err.Error()
			}
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
	return out
}

// candidates returns the backends that a task may run on, in the profile's
// order: the one asked for, or all.
func (m *Manager) candidates(p Profile, asked string) []string {
	if asked != "" {
		return []string{asked}
	}
	return p.Backend
}

// noBackend tells why none of the backends would do.
func noBackend(reasons []string, errs []error) *Error {
	return &Error{
		Code: CodeNoBackend, RetryAfter: unhealthyFor, Err: errors.Join(errs...),
		Message: fmt.Sprintf("no backend can start a sandbox: %s", strings.Join(reasons, "; ")),
	}
}
