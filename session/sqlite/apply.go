package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"claude-runner/session"
)

// Apply writes changes in one transaction.
func (s *Store) Apply(ctx context.Context, changes []session.Change) error {
	err := s.applyAll(ctx, changes, false)
	if isMissing(err) { // a session was deleted, of which there are events still
		err = s.applyAll(ctx, changes, true)
	}
	return err
}

// applyAll writes changes in one transaction. With wary, events of sessions that
// are gone are dropped; without it, they are an error.
func (s *Store) applyAll(ctx context.Context, changes []session.Change, wary bool) error {
	return s.inWriter(ctx, func(w *writer) error {
		b := newBatch(changes)
		for i, c := range changes {
			err := w.apply(b, i, c)
			if errors.Is(err, session.ErrEnded) || errors.Is(err, session.ErrKeyTaken) {
				return &session.ChangeError{Index: i, Err: err}
			}
			if err != nil {
				return err
			}
		}
		if wary {
			if err := w.dropOrphans(b); err != nil {
				return err
			}
		}
		return w.flush(b)
	})
}

// isMissing reports whether an error is that of a row whose session, or task, is
// not there.
func isMissing(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
}

// batch is what is known of changes that are written together: of several states
// of a task the last is enough.
type batch struct {
	updates  map[string]int   // the last Update of each task, by its id
	starting map[string]bool  // tasks of which an Update says so
	events   []session.Record // that are to be written, like the following
	audit    []any            // values of rows
	usage    []any
}

func newBatch(changes []session.Change) *batch {
	b := &batch{updates: map[string]int{}, starting: map[string]bool{}}
	events := 0
	for i, c := range changes {
		if c.Update != nil {
			b.updates[c.Update.ID] = i
		}
		events += len(c.Events)
	}
	b.events = make([]session.Record, 0, events)
	return b
}

func (w *writer) apply(b *batch, i int, c session.Change) error {
	if c.Create != nil {
		if err := w.create(*c.Create); err != nil {
			return err
		}
	}
	if c.Update != nil {
		if err := w.update(b, c.Update, b.updates[c.Update.ID] == i); err != nil {
			return err
		}
	}
	if c.End != nil {
		if err := w.end(b, *c.End); err != nil {
			return err
		}
	}
	if c.Audit != nil {
		b.audit = appendAudit(b.audit, c.Audit)
	}
	if c.Use != nil {
		if err := w.writeUse(*c.Use); err != nil {
			return err
		}
	}
	b.events = append(b.events, c.Events...)
	return nil
}

// flush writes what the changes have added to the batch.
func (w *writer) flush(b *batch) error {
	if err := w.insert(&w.audit, b.audit); err != nil {
		return fmt.Errorf("write audit: %w", err)
	}
	if err := w.insert(&w.usage, b.usage); err != nil {
		return fmt.Errorf("write usage: %w", err)
	}
	values := make([]any, 0, len(b.events)*w.events.columns)
	for _, e := range b.events {
		values = append(values, e.SessionID, e.Seq, e.TaskID, e.Step, nanos(e.Time), e.Data)
	}
	if err := w.insert(&w.events, values); err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	return nil
}

func (w *writer) create(c session.Creation) error {
	request, result, err := encodeTask(c.Task)
	if err != nil {
		return err
	}
	if c.Key != nil {
		if err := w.writeKey(*c.Key); err != nil {
			return err
		}
	}
	webhook, err := encodeWebhook(c.Task.Request.Webhook)
	if err != nil {
		return fmt.Errorf("encode webhook: %w", err)
	}
	v, t := c.Session, c.Task
	_, err = w.exec(w.createSession,
		v.ID, v.Agent, v.AgentID, int64(v.Turns), v.CostUSD, orNull(v.BudgetUSD), nanos(v.CreatedAt), nanos(v.UpdatedAt), v.Owner)
	if err != nil {
		return fmt.Errorf("write session: %w", err)
	}
	_, err = w.exec(w.createTask,
		t.ID, t.SessionID, t.Agent, t.Backend, string(t.State), request, result, nanos(t.CreatedAt), nanos(t.StartedAt), nanos(t.EndedAt), t.TurnFrom, webhook, t.Owner, t.Sandbox)
	if err != nil {
		return fmt.Errorf("write task: %w", err)
	}
	return nil
}

// update writes a task's state, unless it is not the last one of its batch:
// then that one says, too, whether the task has ended.
func (w *writer) update(b *batch, t *session.Task, last bool) error {
	if t.State == session.TaskStarting {
		b.beginSteps(t.ID)
	}
	if !last {
		return nil
	}
	args := []any{string(t.State), t.Backend, t.Sandbox, nanos(t.StartedAt), t.TurnFrom, t.ID}
	if b.starting[t.ID] {
		n, err := w.exec(w.startTask, args...)
		if err = changedOne(n, err); !errors.Is(err, session.ErrEnded) {
			return err
		}
		// It has ended, or it was started before, by a runner that is gone.
		if _, err := w.exec(w.beginSteps, t.SessionID, t.ID); err != nil {
			return fmt.Errorf("begin the task's steps anew: %w", err)
		}
	}
	return changedOne(w.exec(w.updateTask, args...))
}

// beginSteps notes that a task starts: what it did before is of no step.
func (b *batch) beginSteps(taskID string) {
	b.starting[taskID] = true
	for i := range b.events {
		if b.events[i].TaskID == taskID {
			b.events[i].Step = 0
		}
	}
}

// writeKey writes an idempotency key, and forgets those whose time is over.
func (w *writer) writeKey(k session.Key) error {
	if _, err := w.exec(w.forgetKeys, nanos(k.At.Add(-session.KeyLife))); err != nil {
		return fmt.Errorf("forget old keys: %w", err)
	}
	n, err := w.exec(w.takeKey, k.Caller, k.Name, k.Hash, k.TaskID, nanos(k.At))
	if err != nil {
		return fmt.Errorf("write idempotency key: %w", err)
	}
	if n == 0 {
		return session.ErrKeyTaken
	}
	return nil
}

// Key returns what an idempotency key of a caller's stands for.
func (s *Store) Key(ctx context.Context, callerID, name string) (session.Key, error) {
	k := session.Key{Caller: callerID, Name: name}
	var at int64
	err := s.read.QueryRowContext(ctx, `SELECT hash, task_id, at FROM keys WHERE caller = ? AND name = ?`, callerID, name).Scan(&k.Hash, &k.TaskID, &at)
	k.At = moment(at)
	return k, found(err)
}

// end writes a task's end, what it changes in its session, what it used, and
// what is to be told of it.
func (w *writer) end(b *batch, e session.Ending) error {
	t := e.Task
	t.Request.Env = nil
	request, result, err := encodeTask(t)
	if err != nil {
		return err
	}
	n, err := w.exec(w.endTask,
		string(t.State), t.Backend, request, result, nanos(t.StartedAt), nanos(t.EndedAt), t.ID)
	if err := changedOne(n, err); err != nil {
		return err
	}
	_, err = w.exec(w.endSession,
		e.AgentID, int64(e.Turns), t.Result.CostUSD, nanos(t.EndedAt), t.SessionID)
	if err != nil {
		return fmt.Errorf("write session: %w", err)
	}
	u := t.Result.Usage
	b.usage = append(b.usage,
		t.ID, t.SessionID, t.Agent, t.Result.Model, t.Backend, nanos(t.EndedAt), int64(t.Result.Duration), t.Result.CostUSD,
		u.InputTokens, u.OutputTokens, u.CacheReadInputTokens, u.CacheCreationInputTokens, t.Owner)
	if e.Delivery == nil {
		return nil
	}
	return w.writeDelivery(*e.Delivery)
}

// changedOne is session.ErrEnded where no row of a living task was changed.
func changedOne(n int64, err error) error {
	if err != nil {
		return fmt.Errorf("write task: %w", err)
	}
	if n == 0 {
		return session.ErrEnded
	}
	return nil
}

// ResetSession forgets the agent's memory of a session.
func (s *Store) ResetSession(ctx context.Context, id string, at time.Time) error {
	return s.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE sessions SET agent_id = '', turns = 0, updated_at = ? WHERE id = ?`, nanos(at), id)
		return err
	})
}
