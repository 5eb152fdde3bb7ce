package session

import (
	"context"
	"errors"
)

// View is the Manager as one caller sees it: what belongs to another key is not
// there. Its methods are the Manager's.
type View struct {
	m      *Manager
	caller Caller
}

// View returns what c sees.
func (m *Manager) View(c Caller) View { return View{m, c} }

// Submit is Manager.Submit for the View's caller. A session of another key's is
// CodeSessionForbidden.
func (v View) Submit(ctx context.Context, s Submission) (Task, error) {
	s.Caller = v.caller
	return v.m.Submit(ctx, s)
}

// Profiles returns the agents that the caller may use.
func (v View) Profiles() Profiles { return v.caller.visible(v.m.Profiles()) }

// Sessions is Manager.Sessions, of those that are there.
func (v View) Sessions(ctx context.Context, p Page) ([]State, string, error) {
	p.Owner = v.caller.only()
	return v.m.Sessions(ctx, p)
}

// Session returns one session.
func (v View) Session(ctx context.Context, id string) (State, error) {
	s, err := v.m.Session(ctx, id)
	if err == nil && !v.caller.sees(s.Owner) {
		return State{}, noSession(id)
	}
	return s, err
}

// Task returns a task as it stands.
func (v View) Task(ctx context.Context, id string) (Task, error) {
	t, err := v.m.Task(ctx, id)
	if err == nil && !v.caller.sees(t.Owner) {
		return Task{}, noTask(id)
	}
	return t, err
}

// Tasks returns a page of tasks, the newest first, and the next page's cursor.
func (v View) Tasks(ctx context.Context, f TaskFilter) ([]Task, string, error) {
	f.Owner = v.caller.only()
	return v.m.Tasks(ctx, f)
}

// Wait is Manager.Wait.
func (v View) Wait(ctx context.Context, id string) (Task, error) {
	if t, err := v.Task(ctx, id); err != nil {
		return t, err
	}
	return v.m.Wait(ctx, id)
}

// Deliveries returns the messages to webhooks of a task's end.
func (v View) Deliveries(ctx context.Context, taskID string) ([]Delivery, error) {
	if _, err := v.Task(ctx, taskID); err != nil {
		return nil, err
	}
	return v.m.Deliveries(ctx, taskID)
}

// CancelTask is Manager.CancelTask.
func (v View) CancelTask(ctx context.Context, id string) (Task, error) {
	if t, err := v.Task(ctx, id); err != nil {
		return t, err
	}
	return v.m.CancelTask(ctx, id)
}

// Abort is Manager.Abort.
func (v View) Abort(ctx context.Context, sessionID string) ([]string, error) {
	if _, err := v.Session(ctx, sessionID); err != nil {
		return nil, err
	}
	return v.m.abort(ctx, sessionID, v.caller.only())
}

// EventsAfter is Manager.EventsAfter.
func (v View) EventsAfter(ctx context.Context, sessionID string, after int64, limit int) ([]Record, error) {
	records, err := v.m.EventsAfter(ctx, sessionID, after, limit)
	if err != nil {
		return nil, err
	}
	// Asked afterwards: the session of before may have been deleted meanwhile.
	if _, err := v.Session(ctx, sessionID); err != nil {
		return nil, err
	}
	return records, nil
}

// Usage sums what ended tasks of the caller's have used.
func (v View) Usage(ctx context.Context, q UsageQuery) ([]UsageSum, error) {
	q.Owner = v.caller.only()
	return v.m.Usage(ctx, q)
}

// Read is EventLog.Read. A session that is not there yet may be read, and ends
// the Reader with ErrNotFound if it becomes another key's.
func (v View) Read(ctx context.Context, sessionID string, after int64) (*Reader, error) {
	// The cursor stands before the owner is asked for: it ends where the session
	// is deleted from here on.
	cursor, err := v.m.events.Read(ctx, sessionID, after)
	if err != nil {
		return nil, err
	}
	r := &Reader{cursor: cursor, view: v}
	_, err = v.m.opts.Store.Session(ctx, sessionID)
	if err == nil {
		err = r.check(ctx)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		cursor.Close()
		return nil, err
	}
	return r, nil
}

// MayFollow returns nil where Read would open the session.
func (v View) MayFollow(ctx context.Context, sessionID string) error {
	s, err := v.m.opts.Store.Session(ctx, sessionID)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return storageError("read session", err)
	case !v.caller.sees(s.Owner):
		return noSession(sessionID)
	}
	return nil
}

// Reader is a Cursor for one caller. It is for one goroutine.
type Reader struct {
	cursor *Cursor
	view   View
	mine   bool // the session is there, and the caller sees it
}

// Next is Cursor.Next.
func (r *Reader) Next(ctx context.Context) ([]Record, error) {
	records, err := r.cursor.Next(ctx)
	_, gap := errors.AsType[*GapError](err)
	if r.mine || err != nil && !gap {
		return records, err
	}
	if err := r.check(ctx); err != nil {
		if CodeOf(err) == CodeNoSession {
			err = ErrNotFound
		}
		return nil, err
	}
	return records, err
}

// check notes that the session is the caller's, or returns that it is not there.
func (r *Reader) check(ctx context.Context) error {
	_, err := r.view.Session(context.WithoutCancel(ctx), r.cursor.sessionID)
	r.mine = err == nil
	return err
}

// After is Cursor.After.
func (r *Reader) After() int64 { return r.cursor.After() }

// Close is Cursor.Close.
func (r *Reader) Close() { r.cursor.Close() }
