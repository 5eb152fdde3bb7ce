package session

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
)

// Readiness is how a session's agent stands.
type Readiness struct {
	SessionID string
	Agent     string
	Backend   string // "" while it boots
	State     string // one of the Agent… below
}

// How a session's agent may stand.
const (
	AgentBooting = "booting" // it starts
	AgentReady   = "ready"   // it waits for the next message
	AgentWorking = "working" // it has one
)

// aheadStay is how long an agent that was booted ahead waits for its first
// message, at least.
const aheadStay = time.Minute

// Warm boots the session's agent ahead of its next message, unless one stands
// ready or works. The session need not be there yet: name is the agent that it
// will have, "" the default. With wait it returns when the agent is ready, or
// can't be started.
func (v View) Warm(ctx context.Context, sessionID, name string, wait bool) (Readiness, error) {
	m := v.m
	s := Submission{SessionID: sessionID, Agent: name, Caller: v.caller, Request: Request{Message: "-"}}
	if err := s.validate(); err != nil {
		return Readiness{}, err
	}
	if err := m.limiters.check(v.caller); err != nil {
		return Readiness{}, err
	}
	upstreams, err := m.opts.ModelAPIs()
	if err != nil {
		return Readiness{}, &Error{Code: CodeNoCredentials, Message: err.Error(), Err: err}
	}
	l, err := m.enter(ctx, sessionID)
	if err != nil {
		return Readiness{}, err
	}
	defer m.leave(l)
	sess, err := m.opts.Store.Session(ctx, sessionID)
	isNew := errors.Is(err, ErrNotFound)
	switch {
	case isNew:
		sess = Session{ID: sessionID, Owner: v.caller.KeyID}
	case err != nil:
		return Readiness{}, storageError("read session", err)
	case !v.caller.sees(sess.Owner):
		return Readiness{}, noSession(sessionID)
	}
	if err := m.checkBudget(ctx, sess.Owner); err != nil {
		return Readiness{}, err
	}
	r, p, err := m.warm(l, sess, s, isNew, func(profile Profile) *boot {
		return &boot{
			m: m, profile: profile, upstreams: upstreams, mask: newMasker(secretValues(upstreams, profile.Profile, nil)),
			name: "ahead-" + uuid.NewString(), folder: sessionID, session: sessionID, resume: sess.AgentID,
		}
	})
	if err != nil || p == nil || !wait {
		return r, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return r, context.Cause(ctx)
	}
	if p.err != nil {
		return r, p.err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return l.readiness(r), nil
}

// warm is Warm for a session that is held. What it starts is returned.
func (m *Manager) warm(l *live, sess Session, s Submission, isNew bool, of func(Profile) *boot) (Readiness, *pending, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return Readiness{}, nil, errClosing
	}
	name, err := m.chooseAgent(sess, s)
	if err != nil {
		return Readiness{}, nil, err
	}
	r := l.readiness(Readiness{SessionID: sess.ID, Agent: name})
	if l.pending != nil || l.current != nil {
		return r, l.pending, nil
	}
	b := of(m.profiles.ByName[name])
	if p := l.hot; p != nil && p.base == baseKey(b.profile, b.upstreams) && p.conv.Alive() {
		return r, nil, nil
	}
	ctx, cancel := context.WithCancelCause(m.root)
	started := m.pend(l, func(context.Context) error {
		defer cancel(nil)
		return m.bootAhead(ctx, l, b, sess.Owner, isNew)
	}, cancel)
	r.State = AgentBooting
	return r, started, nil
}

// readiness fills in how the session's agent stands. Manager.mu is held.
func (l *live) readiness(r Readiness) Readiness {
	switch {
	case l.current != nil:
		r.State = AgentWorking
	case l.hot != nil:
		r.State, r.Backend = AgentReady, l.hot.backend
	default:
		r.State = AgentBooting
	}
	return r
}

// bootAhead gives the session an agent that waits for its next message.
func (m *Manager) bootAhead(ctx context.Context, l *live, b *boot, owner string, isNew bool) error {
	if p := m.unkeepHot(l); p != nil { // it is of no use any more
		m.stop(p)
	}
	p, err := m.ahead(ctx, b, owner)
	if err != nil {
		return err
	}
	p.unborn = isNew
	stay := max(b.profile.IdleTimeout, aheadStay)
	if ctx.Err() != nil || !m.keepHot(l, p, stay) {
		m.stop(p)
		return errClosing
	}
	return nil
}

// ahead returns an agent that has booted: a warm one where the session is new,
// or another.
func (m *Manager) ahead(ctx context.Context, b *boot, owner string) (*process, error) {
	if b.resume == "" {
		base := baseKey(b.profile, b.upstreams)
		p := m.takeWarm(b.profile.Name, func(p *process) bool { return p.base == base && p.conv.Alive() })
		if p != nil {
			if err := m.moveIn(p, b.folder); err == nil {
				return p, nil
			}
			m.stop(p)
		}
	}
	leave, err := m.admission.enter(ctx, owner, func(int) {})
	if err != nil {
		return nil, err
	}
	defer leave()
	p, err := b.start(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.booted(ctx); err != nil {
		m.stop(p)
		return nil, err
	}
	return p, nil
}
