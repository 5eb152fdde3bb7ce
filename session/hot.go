package session

import (
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"claude-runner/backends"
)

// restAfter is how long an agent waits for its next message before it is put to
// rest: until then it may have things to write down.
const restAfter = 10 * time.Second

// keep makes the process wait for a task. stop ends it when none comes for so
// long; 0: it waits for good.
func (p *process) keep(idle time.Duration, stop func()) {
	p.since.Store(time.Now().UnixNano())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = true
	p.rest = time.AfterFunc(restAfter, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.waiting { // else a task's message may have been sent
			p.in.control(backends.ControlRest)
		}
	})
	if idle > 0 {
		p.idle = time.AfterFunc(idle, stop)
	}
}

// unkeep ends the waiting. What the agent is told next wakes it.
func (p *process) unkeep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = false
	p.rest.Stop()
	if p.idle != nil {
		p.idle.Stop()
	}
}

// pending is something under way in a session that its next task waits for: an
// agent that boots ahead of it, or one that is being ended.
type pending struct {
	done   chan struct{}
	cancel context.CancelCauseFunc // nil: it can't be cut short
	err    error                   // why there is no agent; set before done is closed
}

// await waits until nothing is pending in the session.
func (m *Manager) await(ctx context.Context, l *live) error {
	for {
		m.mu.Lock()
		p := l.pending
		m.mu.Unlock()
		if p == nil {
			return nil
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// keepHot keeps the agent for the session's next message, for a while. It is
// false where the runner is closing.
func (m *Manager) keepHot(l *live, p *process, idle time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return false
	}
	l.hot = p
	p.keep(idle, func() { m.expire(l, p) })
	m.kickMemory()
	return true
}

// expire ends an agent that waits in a session, if it still does.
func (m *Manager) expire(l *live, p *process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.hot != p || l.pending != nil || m.closing { // another took it: a task, or Close
		return
	}
	l.hot = nil
	m.pend(l, func(context.Context) error {
		p.unkeep()
		m.stop(p)
		return nil
	}, nil)
}

// pend runs do, for which the session's next task waits. m.mu is held.
func (m *Manager) pend(l *live, do func(context.Context) error, cancel context.CancelCauseFunc) *pending {
	p := &pending{done: make(chan struct{}), cancel: cancel}
	l.pending = p
	l.users++
	m.tasks.Go(func() {
		err := do(m.root)
		m.mu.Lock()
		defer m.mu.Unlock()
		p.err, l.pending = err, nil
		close(p.done)
		m.letGo(l)
	})
	return p
}

// unkeepHot takes the kept agent out of the session; nil where there is none.
func (m *Manager) unkeepHot(l *live) *process {
	m.mu.Lock()
	p := l.hot
	l.hot = nil
	m.mu.Unlock()
	if p != nil {
		p.unkeep()
	}
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
	if pending != nil {
		if pending.cancel != nil {
			pending.cancel(errAborted)
		}
		<-pending.done
	}
	if p := m.unkeepHot(l); p != nil {
		m.stop(p)
	}
}
