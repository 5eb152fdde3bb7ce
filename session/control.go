package session

import (
	"context"
	"fmt"
)

// Abort ends the session's running task and all that wait behind it, and
// returns their ids once each end is written. Tasks submitted meanwhile stay.
func (m *Manager) Abort(ctx context.Context, sessionID string) ([]string, error) {
	if _, err := m.Session(ctx, sessionID); err != nil {
		return nil, err
	}
	return m.abort(ctx, sessionID, "")
}

// abort ends the session's tasks that are owner's, or all where that is "".
func (m *Manager) abort(ctx context.Context, sessionID, owner string) ([]string, error) {
	theirs := func(j *job) bool { return owner == "" || j.task.Owner == owner }
	m.mu.Lock()
	jobs := m.unqueue(func(j *job) bool { return j.task.SessionID == sessionID && theirs(j) })
	var current *job
	if l := m.live[sessionID]; l != nil && l.current != nil && !l.current.ended() && theirs(l.current) {
		current = l.current
		current.cancel(errAborted)
	}
	m.mu.Unlock()

	aborted := []string{}
	for _, j := range jobs {
		m.endUnstarted(j, TaskAborted, Failure{CodeAborted, "aborted while it waited"})
		aborted = append(aborted, j.task.ID)
	}
	if current != nil {
		select {
		case <-current.done:
		case <-ctx.Done():
			return aborted, context.Cause(ctx)
		}
		if current.task.State == TaskAborted {
			aborted = append([]string{current.task.ID}, aborted...)
		}
	}
	return aborted, nil
}

// CancelTask ends one task, queued or running, and returns it with its end.
func (m *Manager) CancelTask(ctx context.Context, id string) (Task, error) {
	m.mu.Lock()
	j := m.jobs[id]
	queued := m.unqueue(func(w *job) bool { return w == j })
	if j != nil && len(queued) == 0 {
		j.cancel(errAborted)
	}
	m.mu.Unlock()

	if j == nil {
		t, err := m.Task(ctx, id)
		if err == nil {
			err = &Error{Code: CodeTaskEnded, Message: fmt.Sprintf("task %q has ended already: %s", id, t.State)}
		}
		return t, err
	}
	if len(queued) == 1 {
		m.endUnstarted(j, TaskAborted, Failure{CodeAborted, "aborted while it waited"})
	}
	return m.Wait(ctx, id)
}

// Reset ends the session's tasks, and gives it a new workspace from its
// agent's template and an empty memory. The session and what its tasks cost
// stay.
func (m *Manager) Reset(ctx context.Context, sessionID string) error {
	return m.View(Caller{}).Reset(ctx, sessionID)
}

// Reset is Manager.Reset.
func (v View) Reset(ctx context.Context, sessionID string) error {
	m := v.m
	return v.alone(ctx, sessionID, func() error {
		if err := m.discard(sessionID); err != nil {
			return &Error{Code: CodeStorage, Message: "reset session: its folder could not be removed; the log says more", Err: err}
		}
		err := m.opts.Store.ResetSession(ctx, sessionID, m.opts.Now())
		m.forgetSession(sessionID)
		if err != nil {
			return storageError("reset session", err)
		}
		return nil
	})
}

// Delete ends the session's tasks and removes it with its folder, tasks and
// events.
func (m *Manager) Delete(ctx context.Context, sessionID string) error {
	return m.View(Caller{}).Delete(ctx, sessionID)
}

// Delete is Manager.Delete.
func (v View) Delete(ctx context.Context, sessionID string) error {
	m := v.m
	return v.alone(ctx, sessionID, func() error {
		m.events.Drop(sessionID)
		err := m.opts.Store.DeleteSession(ctx, sessionID)
		m.forgetSession(sessionID)
		if err != nil {
			return storageError("delete session", err)
		}
		m.events.Drop(sessionID) // who came meanwhile saw this session, and must not see the next of its name
		if err := m.discard(sessionID); err != nil {
			return &Error{Code: CodeStorage, Message: "delete session: its folder could not be removed; the log says more", Err: err}
		}
		return nil
	})
}

// alone ends all that goes on in a session and calls do while nothing else can
// begin in it.
func (v View) alone(ctx context.Context, sessionID string, do func() error) error {
	m := v.m
	l, err := m.enter(ctx, sessionID)
	if err != nil {
		return err
	}
	defer m.leave(l)
	if _, err := v.Session(ctx, sessionID); err != nil {
		return err
	}
	if _, err := m.abort(ctx, sessionID, ""); err != nil {
		return err
	}
	if err := m.quiet(ctx, l); err != nil {
		return err
	}
	return do()
}

// quiet waits until no process of the session is left.
func (m *Manager) quiet(ctx context.Context, l *live) error {
	m.mu.Lock()
	j := l.current
	m.mu.Unlock()
	if j != nil {
		if err := j.awaitGone(ctx); err != nil {
			return err
		}
	}
	m.closeHot(l)
	return nil
}
