package session

import (
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"claude-runner/backends"
)

const (
	// restAfter is how long an agent waits for its next message before it is put to
	// rest: until then it may have things to write down, and a message that comes is
	// answered some milliseconds sooner.
	restAfter = 15 * time.Second
	// doneRest is the same for one that is done: it writes down its memory within a
	// tenth of a second.
	doneRest = 300 * time.Millisecond
	// napTime is how long one rests whose turn ends while others wait to begin
	// theirs: what it does behind its answer would keep them waiting. It has its
	// memory to write down then, and is not to leave that for long.
	napTime = 1500 * time.Millisecond
)

// keep makes the process wait for a task, or to end where it is done, and has it
// rest after a while. stop ends it when no task comes for so long; idle 0: it waits
// for good.
func (p *process) keep(idle time.Duration, stop func()) {
	p.since.Store(time.Now().UnixNano())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = true
	p.rest = time.AfterFunc(p.restAfter(), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.lieDown()
	})
	if idle > 0 {
		p.idle = time.AfterFunc(idle, stop)
	}
}

// takeNap has an agent rest at once that was just kept, for a moment only.
func (p *process) takeNap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lieDown()
	p.nap = time.AfterFunc(napTime, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.getUp()
	})
}

func (p *process) restAfter() time.Duration {
	if p.done() {
		return doneRest
	}
	return restAfter
}

// lieDown puts the agent to rest while it waits: else a task's message may have
// been sent. p.mu is held.
func (p *process) lieDown() {
	if p.waiting && p.rested.IsZero() && p.in.control(backends.ControlRest) {
		p.rested = time.Now()
	}
}

// getUp has the agent awake while it waits, until it rests again after a while.
// p.mu is held.
func (p *process) getUp() {
	if !p.waiting {
		return
	}
	p.rest.Reset(p.restAfter())
	if !p.rested.IsZero() {
		p.in.control(backends.ControlWake)
		p.rested = time.Time{}
	}
}

// expect has the agent awake for a message that is likely to come: what its
// runtime has missed meanwhile, timers and the garbage collection that hangs on
// them, is done before it comes, and not behind it. Without one it rests again.
func (p *process) expect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.done() {
		p.getUp()
	}
}

// unkeep ends the waiting. What the agent is told next wakes it.
func (p *process) unkeep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting, p.rested = false, time.Time{}
	p.rest.Stop()
	for _, timer := range []*time.Timer{p.nap, p.idle} {
		if timer != nil {
			timer.Stop()
		}
	}
}

// pending is something under way in a session that its next task waits for: an
// agent that boots ahead of it, or one that is being ended.
type pending struct {
	done   chan struct{}
	cancel context.CancelCauseFunc // nil: it can't be cut short
	err    error                   // why there is no agent; set before done is closed
}

// expectMessage has the session's agent awake, if it has one that waits.
func (m *Manager) expectMessage(l *live) {
	m.mu.Lock()
	p := l.hot
	m.mu.Unlock()
	if p != nil {
		p.expect()
	}
}

// takeHot takes the agent that waits in the session; nil where there is none.
// What is pending there comes first.
func (m *Manager) takeHot(ctx context.Context, l *live) (*process, error) {
	for {
		m.mu.Lock()
		pending, p := l.pending, l.hot
		if pending == nil {
			l.hot = nil
		}
		m.mu.Unlock()
		switch {
		case pending != nil:
			select {
			case <-pending.done:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		case p != nil:
			p.unkeep()
			return p, nil
		default:
			return nil, nil
		}
	}
}

// stays reports whether the agent stays behind its turn: for the next message, or
// since others are in a hurry.
func (a *attempt) stays(p *process) bool {
	idle := a.profile.IdleTimeout
	if idle == 0 && a.m.admission.isCalm() {
		return false
	}
	a.sweep(p) // what is left is no part of the next turn
	if idle == 0 {
		return a.m.endLater(a.live, p)
	}
	return a.m.keepHot(a.live, p, idle)
}

// keepHot makes the agent wait in the session, to rest and to end after a while:
// see keep. It is false where the runner is closing.
func (m *Manager) keepHot(l *live, p *process, idle time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return false
	}
	l.hot = p
	p.keep(idle, func() { m.expire(l, p) })
	if m.admission.crowded() {
		p.takeNap()
	}
	m.kickMemory()
	return true
}

// expire ends an agent that waits in a session, if it still does: nil, where it
// does not.
func (m *Manager) expire(l *live, p *process) *pending {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.hot != p || l.pending != nil || m.closing { // another took it: a task, or Close
		return nil
	}
	l.hot = nil
	return m.pend(l, func() error {
		p.unkeep()
		m.stop(p)
		return nil
	}, nil)
}

// endLater ends an agent that is done when no task waits for its own to boot: to
// end takes the processors a good part of what booting does. No task gets it
// meanwhile; the session's next one ends it. It is false where the runner is
// closing.
func (m *Manager) endLater(l *live, p *process) bool {
	p.base = forNone
	if !m.keepHot(l, p, 0) {
		return false
	}
	m.admission.whenCalm(func() {
		if ending := m.expire(l, p); ending != nil {
			<-ending.done
		}
	})
	return true
}

// pend runs do, for which the session's next task waits. m.mu is held.
func (m *Manager) pend(l *live, do func() error, cancel context.CancelCauseFunc) *pending {
	p := &pending{done: make(chan struct{}), cancel: cancel}
	l.pending = p
	l.users++
	m.tasks.Go(func() {
		err := do()
		m.mu.Lock()
		defer m.mu.Unlock()
		p.err, l.pending = err, nil
		close(p.done)
		m.letGo(l)
	})
	return p
}

// closeHotAgents ends every kept agent.
func (m *Manager) closeHotAgents() {
	m.mu.Lock()
	kept := slices.Collect(maps.Values(m.live))
	m.mu.Unlock()
	var g errgroup.Group
	for _, l := range kept {
		g.Go(func() error { m.closeHot(l); return nil })
	}
	_ = g.Wait() // the functions return nil
}

// closeHot ends the session's kept agent, and one that boots ahead.
func (m *Manager) closeHot(l *live) {
	m.mu.Lock()
	pending := l.pending
	m.mu.Unlock()
	if pending != nil && pending.cancel != nil {
		pending.cancel(errAborted)
	}
	if p, _ := m.takeHot(context.Background(), l); p != nil { // it fails where its context ends
		m.stop(p)
	}
}
