package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"claude-runner/session"
)

// dropOrphans forgets those of the batch's events whose session is gone.
func (w *writer) dropOrphans(b *batch) error {
	there := map[string]bool{}
	for _, e := range b.events {
		if _, ok := there[e.SessionID]; ok {
			continue
		}
		n, err := w.exec(w.findSession, e.SessionID)
		if err != nil {
			return fmt.Errorf("find session: %w", err)
		}
		there[e.SessionID] = n == 1
	}
	b.events = slices.DeleteFunc(b.events, func(e session.Record) bool { return !there[e.SessionID] })
	return nil
}

// Events returns up to limit events of a session with a number above after.
func (s *Store) Events(ctx context.Context, sessionID string, after int64, limit int) ([]session.Record, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT seq, task_id, step, time, data FROM events WHERE session_id = ? AND seq > ? ORDER BY seq LIMIT ?`,
		sessionID, after, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []session.Record{}
	for rows.Next() {
		r := session.Record{SessionID: sessionID}
		var at int64
		if err := rows.Scan(&r.Seq, &r.TaskID, &r.Step, &at, &r.Data); err != nil {
			return nil, err
		}
		r.Time = moment(at)
		out = append(out, r)
	}
	return out, rows.Err()
}

// LastSeq returns the highest number that an event of the session ever had.
func (s *Store) LastSeq(ctx context.Context, sessionID string) (int64, error) {
	var seq int64
	err := s.readLastSeq.QueryRowContext(ctx, sessionID).Scan(&seq)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return seq, err
}

// LastStep returns the highest step of a task's events: the last one's, for steps
// only grow.
func (s *Store) LastStep(ctx context.Context, taskID string) (int64, error) {
	var step int64
	err := s.read.QueryRowContext(ctx, `SELECT step FROM events WHERE session_id = (SELECT session_id FROM tasks WHERE id = ?1)
		AND task_id = ?1 AND step > 0 ORDER BY seq DESC LIMIT 1`, taskID).Scan(&step)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return step, err
}

// LastRefusal implements session.Store.
func (s *Store) LastRefusal(ctx context.Context, t session.Task) (seq, count int64, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT coalesce(max(CAST(data AS TEXT) ->> '$.refusal.seq'), 0), count(*) FROM events
		WHERE session_id = ? AND task_id = ? AND CAST(data AS TEXT) ->> '$.type' = ?`, t.SessionID, t.ID, session.EventEgressRefused).Scan(&seq, &count)
	return seq, count, err
}
