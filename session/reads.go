package session

import (
	"context"
	"errors"
)

// Wait returns the task once it has ended, or as it stands when ctx ends, with
// ctx's cause, or when the runner closes before its start.
func (m *Manager) Wait(ctx context.Context, id string) (Task, error) {
	m.mu.Lock()
	j := m.jobs[id]
	m.mu.Unlock()
	if j == nil {
		t, err := m.Task(ctx, id)
		if err == nil && !t.State.Ended() {
			err = errPostponed
		}
		return t, err
	}
	select {
	case <-j.done:
		if !j.task.State.Ended() {
			return j.task, errPostponed
		}
		return j.task, nil
	case <-ctx.Done():
		m.mu.Lock()
		defer m.mu.Unlock()
		return j.task, context.Cause(ctx)
	}
}

// Task returns a task as it stands.
func (m *Manager) Task(ctx context.Context, id string) (Task, error) {
	t, err := m.opts.Store.Task(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return Task{}, noTask(id)
	}
	if err != nil {
		return Task{}, storageError("read task", err)
	}
	return t, nil
}

// Tasks returns a page of tasks, the newest first, and the next page's cursor.
func (m *Manager) Tasks(ctx context.Context, f TaskFilter) ([]Task, string, error) {
	tasks, next, err := m.opts.Store.Tasks(ctx, f)
	if err != nil {
		if _, ok := errors.AsType[*Error](err); ok {
			return nil, "", err
		}
		return nil, "", storageError("list tasks", err)
	}
	return tasks, next, nil
}

// Load is what the Manager has to do.
type Load struct {
	Running int  // tasks that start or run
	Queued  int  // tasks that wait
	Closing bool // no task is taken any more
}

// Load returns what the Manager has to do now.
func (m *Manager) Load() Load {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Load{Running: m.total, Queued: len(m.waiting), Closing: m.closing}
}

// Sessions returns a page of sessions, the last used first, and the next page's
// cursor.
func (m *Manager) Sessions(ctx context.Context, p Page) ([]State, string, error) {
	stored, next, err := m.opts.Store.Sessions(ctx, p)
	if err != nil {
		if _, ok := errors.AsType[*Error](err); ok {
			return nil, "", err
		}
		return nil, "", storageError("list sessions", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	queued := map[string]int{}
	for _, j := range m.waiting {
		if j.ready {
			queued[j.task.SessionID]++
		}
	}
	out := make([]State, len(stored))
	for i, s := range stored {
		out[i] = m.stateLocked(s, queued[s.ID])
	}
	return out, next, nil
}

// Session returns one session.
func (m *Manager) Session(ctx context.Context, id string) (State, error) {
	s, err := m.opts.Store.Session(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return State{}, noSession(id)
	}
	if err != nil {
		return State{}, storageError("read session", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	queued := 0
	for _, j := range m.waiting {
		if j.ready && j.task.SessionID == id {
			queued++
		}
	}
	return m.stateLocked(s, queued), nil
}

func (m *Manager) stateLocked(s Session, queued int) State {
	st := State{Session: s, Queued: queued}
	if l := m.live[s.ID]; l != nil && l.current != nil && !l.current.ended() {
		st.Busy, st.Current = true, l.current.task.ID
	}
	return st
}

// Ready returns nil while a task that is submitted now would be written down,
// and otherwise why not.
func (m *Manager) Ready() error {
	m.mu.Lock()
	closing := m.closing
	m.mu.Unlock()
	if closing {
		return errClosing
	}
	if err := m.events.Trouble(); err != nil {
		return storageError("write to the database", err)
	}
	return nil
}

// EventsAfter returns up to limit stored events of a session with a number
// above after.
func (m *Manager) EventsAfter(ctx context.Context, sessionID string, after int64, limit int) ([]Record, error) {
	if _, err := m.Session(ctx, sessionID); err != nil {
		return nil, err
	}
	records, err := m.opts.Store.Events(ctx, sessionID, after, limit)
	if err != nil {
		return nil, storageError("read events", err)
	}
	return records, nil
}

// Usage sums what ended tasks have used.
func (m *Manager) Usage(ctx context.Context, q UsageQuery) ([]UsageSum, error) {
	sums, err := m.opts.Store.Usage(ctx, q)
	if err != nil {
		return nil, storageError("read usage", err)
	}
	return sums, nil
}
