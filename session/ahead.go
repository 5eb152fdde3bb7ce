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
	if err := v.m.limiters.check(v.caller); err != nil {
		return Readiness{}, err
	}
	r, l, p, err := v.warm(ctx, sessionID, name, false)
	if err != nil || p == nil || !wait {
		return r, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return r, context.Cause(ctx)
	}
	if p.err != nil {
		_, f := classify(p.err, bootPatience)
		return r, &Error{Code: f.Code, Message: "the agent could not be booted: " + f.Message, Err: p.err}
	}
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	return l.readiness(r), nil
}

// Expect is Warm for a session in which a message is likely to come soon, such
// as one whose stream was opened: where its agent would stay between two
// messages, it boots now. It returns at once.
func (v View) Expect(sessionID string) {
	m := v.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing || !v.caller.May(ScopeSubmit) {
		return
	}
	m.tasks.Go(func() {
		if _, _, _, err := v.warm(m.root, sessionID, "", true); err != nil {
			m.log.Debug("the agent of a stream's session is not booted ahead", "session", sessionID, "error", err)
		}
	})
}

// warm starts to boot the session's agent, where there is a reason to, and
// returns what is under way then.
func (v View) warm(ctx context.Context, sessionID, name string, ifStays bool) (Readiness, *live, *pending, error) {
	m := v.m
	fail := func(err error) (Readiness, *live, *pending, error) { return Readiness{}, nil, nil, err }
	s := Submission{SessionID: sessionID, Agent: name, Caller: v.caller, Request: Request{Message: "to come"}}
	if err := s.validate(); err != nil {
		return fail(err)
	}
	upstreams, err := m.opts.ModelAPIs()
	if err != nil {
		return fail(&Error{Code: CodeNoCredentials, Message: err.Error(), Err: err})
	}
	l, err := m.enter(ctx, sessionID)
	if err != nil {
		return fail(err)
	}
	defer m.leave(l)
	sess, err := m.storedSession(ctx, l)
	isNew := errors.Is(err, ErrNotFound)
	switch {
	case isNew:
		sess = Session{ID: sessionID, Owner: v.caller.KeyID}
	case err != nil:
		return fail(storageError("read session", err))
	case !v.caller.sees(sess.Owner):
		return fail(noSession(sessionID))
	}
	if err := m.checkBudget(ctx, sess.Owner); err != nil {
		return fail(err)
	}
	if err := m.settled(ctx, l); err != nil {
		return fail(err)
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return fail(errClosing)
	}
	if sess.Agent, err = m.chooseAgent(sess, s); err != nil {
		return fail(err)
	}
	profile := m.profiles.ByName[sess.Agent]
	r := l.readiness(Readiness{SessionID: sess.ID, Agent: sess.Agent})
	if l.pending != nil || l.current != nil {
		return r, l, l.pending, nil
	}
	if p := l.hot; p != nil && p.base == m.bases.of(profile, upstreams) && p.conv.Alive() {
		m.tasks.Go(p.expect)
		return r, l, nil, nil
	}
	if ifStays && profile.IdleTimeout == 0 && profile.KeepWarm == 0 {
		return r, l, nil, nil
	}
	b := m.newBoot(profile, upstreams)
	if !isNew {
		b.name, b.folder, b.session, b.resume = "ahead-"+uuid.NewString(), sess.ID, sess.ID, sess.AgentID
	}
	r.State = AgentBooting
	return r, l, m.bootAhead(l, b, sess.Owner), nil
}

// settled waits until a task that has ended has cleared up behind itself.
func (m *Manager) settled(ctx context.Context, l *live) error {
	m.mu.Lock()
	j := l.current
	m.mu.Unlock()
	if j == nil || !j.ended() {
		return nil
	}
	return j.awaitGone(ctx)
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

// bootAhead gives the session an agent that waits for its next message. m.mu is
// held.
func (m *Manager) bootAhead(l *live, b *boot, owner string) *pending {
	ctx, cancel := context.WithCancelCause(m.root)
	old := l.hot
	l.hot = nil
	return m.pend(l, func() error {
		defer cancel(nil)
		ctx, stop := context.WithTimeoutCause(ctx, bootPatience, errTimedOut)
		defer stop()
		if old != nil { // it is of no use any more
			old.unkeep()
			m.stop(old)
		}
		p, err := m.ahead(ctx, b, owner)
		if err != nil {
			return err
		}
		if ctx.Err() != nil || !m.keepHot(l, p, max(b.profile.IdleTimeout, aheadStay)) {
			m.stop(p)
			return errClosing
		}
		return nil
	}, cancel)
}

// ahead returns an agent that has booted: a warm one where the session is new,
// or another.
func (m *Manager) ahead(ctx context.Context, b *boot, owner string) (*process, error) {
	if b.session == "" {
		base := m.bases.of(b.profile, b.upstreams)
		p := m.takeWarm(b.profile.Name, func(p *process) bool { return p.base == base && p.conv.Alive() })
		if p != nil {
			return p, nil
		}
	}
	leave, err := m.admission.enter(ctx, owner, func(int) {})
	if err != nil {
		return nil, err
	}
	defer leave()
	return b.ahead(ctx)
}
