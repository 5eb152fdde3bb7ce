package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Submission asks for a task.
type Submission struct {
	SessionID string
	Agent     string // "": the session's own, or the default
	Request   Request
	// Key is an idempotency key: the same one with the same submission gives
	// the first one's task, for KeyLife; with another, CodeKeyReused. "": none.
	Key string
	// Caller is who submits it.
	Caller Caller
	// Audit is what the audit gets to know of it, where it is taken: all but
	// the time, the task and the outcome is filled in. Nil: nothing.
	Audit *AuditEntry
	// TraceParent is the caller's place in a trace, as W3C Trace Context writes
	// it. Observers ignore what is not well-formed. "": none.
	TraceParent string
}

// Submit writes a task down and queues it. It returns as soon as that is done.
func (m *Manager) Submit(ctx context.Context, s Submission) (Task, error) {
	task, err := m.submit(ctx, s)
	if err != nil {
		m.tell(func(o Observer) { o.TaskRefused(CodeOf(err)) })
	}
	return task, err
}

func (m *Manager) submit(ctx context.Context, s Submission) (Task, error) {
	if err := m.limiters.check(s.Caller); err != nil {
		return Task{}, err
	}
	if err := s.validate(); err != nil {
		return Task{}, err
	}
	if err := m.checkWebhook(s.Request.Webhook); err != nil {
		return Task{}, err
	}
	if _, err := m.opts.ModelAPIs(); err != nil {
		return Task{}, &Error{Code: CodeNoCredentials, Message: err.Error(), Err: err}
	}
	l, err := m.enter(ctx, s.SessionID)
	if err != nil {
		return Task{}, err
	}
	defer m.leave(l)
	if task, ok, err := m.known(ctx, s); ok || err != nil {
		return m.again(ctx, s, task, err)
	}

	sess, err := m.storedSession(ctx, l)
	isNew := errors.Is(err, ErrNotFound)
	if err != nil && !isNew {
		return Task{}, storageError("read session", err)
	}
	now := m.opts.Now().UTC()
	if isNew {
		sess = Session{ID: s.SessionID, CreatedAt: now, Owner: s.Caller.KeyID}
	}
	if !s.Caller.sees(sess.Owner) {
		return Task{}, &Error{Code: CodeForeign, Field: "sessionId", Message: "this sessionId is not for this key; use another one"}
	}
	if err := m.checkBudget(ctx, sess.Owner); err != nil {
		return Task{}, err
	}
	m.expectMessage(l)
	sess.UpdatedAt = now
	j, err := m.accept(&sess, s, now)
	if err != nil {
		return Task{}, err
	}
	task, r := j.task, newRecord(s, sess, j)
	if m.beginAtOnce(l, j, r) {
		err = <-r.written
	} else if err = m.write(task, r)(); err == nil {
		m.admit(j)
	} else {
		m.withdraw(j)
	}
	if errors.Is(err, ErrKeyTaken) { // by another session, a moment ago
		task, _, err := m.known(ctx, s)
		return m.again(ctx, s, task, err)
	}
	if err != nil {
		return Task{}, storageError("write task", err)
	}
	return task, nil
}

// The outcomes of a submit in the audit.
const (
	auditKnown = 200 // an idempotency key had the task already
	auditTaken = 202 // it is taken
)

// again returns a task that the submission's key stood for.
func (m *Manager) again(ctx context.Context, s Submission, task Task, err error) (Task, error) {
	if e := s.audited(task, auditKnown); err == nil && e != nil {
		err = m.Audit(ctx, *e, true)
	}
	return task, err
}

// audited returns the submission's entry in the audit, or nil.
func (s Submission) audited(t Task, status int) *AuditEntry {
	if s.Audit == nil {
		return nil
	}
	e := *s.Audit
	e.At, e.Session, e.Task, e.Agent, e.Status = time.Now().UTC(), t.SessionID, t.ID, t.Agent, status
	return &e
}

// accept decides whether a task may wait, and for which agent, and reserves its
// place. A new session becomes that agent's.
func (m *Manager) accept(sess *Session, s Submission, now time.Time) (*job, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return nil, errClosing
	}
	name, err := m.chooseAgent(*sess, s)
	if err != nil {
		return nil, err
	}
	if len(m.waiting) >= m.opts.QueueDepth {
		return nil, &Error{
			Code: CodeQueueFull, RetryAfter: 5 * time.Second,
			Message: fmt.Sprintf("%d tasks are waiting already, as many as limits.queue_depth allows; try again later", len(m.waiting)),
		}
	}
	sess.Agent = name
	return m.reserve(Task{
		ID: uuid.Must(uuid.NewV7()).String(), SessionID: sess.ID, Agent: name,
		Backend: s.Request.Backend, State: TaskQueued, Request: s.Request, CreatedAt: now, Owner: sess.Owner,
	}), nil
}

// chooseAgent returns the agent that a task is for.
func (m *Manager) chooseAgent(sess Session, s Submission) (string, error) {
	name := s.Agent
	switch {
	case sess.Agent != "" && name != "" && name != sess.Agent:
		return "", &Error{Code: CodeAgentFixed, Field: "agent", Message: fmt.Sprintf(
			"session %q belongs to agent %q since its first task; use another sessionId for agent %q", sess.ID, sess.Agent, name)}
	case sess.Agent != "":
		name = sess.Agent
	case name == "":
		name = m.profiles.Default
	}
	if err := s.Caller.checkAgent(name, m.profiles); err != nil {
		return "", err
	}
	p, ok := m.profiles.ByName[name]
	if !ok {
		return "", &Error{Code: CodeNoAgent, Field: "agent", Message: fmt.Sprintf(
			"there is no agent %q; the configuration has %s", name, m.profiles.names())}
	}
	return name, p.allowsBackend(s.Request.Backend)
}
