package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"claude-runner/session"
)

// addEvents has events of one session written by flush. Those of a session that
// is gone are dropped.
func (s *Store) addEvents(ctx context.Context, tx *sql.Tx, b *batch, events []session.Record) error {
	if len(events) == 0 {
		return nil
	}
	id := events[0].SessionID
	if _, ok := b.there[id]; !ok {
		res, err := exec(ctx, tx, s.setLastSeq, b.seqs[id], id)
		if err != nil {
			return fmt.Errorf("write the last event's number: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		b.there[id] = n == 1
	}
	if b.there[id] {
		b.events = append(b.events, events...)
	}
	return nil
}

// eventRows is how many events one statement writes.
const eventRows = 8

// flush writes the batch's events.
func (s *Store) flush(ctx context.Context, tx *sql.Tx, b *batch) error {
	args := make([]any, 0, 6*eventRows)
	for len(b.events) > 0 {
		n, insert := 1, s.insertEvent
		if len(b.events) >= eventRows {
			n, insert = eventRows, s.insertEvents
		}
		args = args[:0]
		for _, e := range b.events[:n] {
			args = append(args, e.SessionID, e.Seq, e.TaskID, e.Step, nanos(e.Time), e.Data)
		}
		if _, err := exec(ctx, tx, insert, args...); err != nil {
			return fmt.Errorf("write events from %d of session %s: %w", b.events[0].Seq, b.events[0].SessionID, err)
		}
		b.events = b.events[n:]
	}
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

// LastStep returns the highest step of a task's events.
func (s *Store) LastStep(ctx context.Context, taskID string) (int64, error) {
	var step int64
	err := s.read.QueryRowContext(ctx, `SELECT coalesce(max(step), 0) FROM events WHERE task_id = ? AND step > 0`, taskID).Scan(&step)
	return step, err
}

// LastRefusal implements session.Store.
func (s *Store) LastRefusal(ctx context.Context, t session.Task) (seq, count int64, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT coalesce(max(CAST(data AS TEXT) ->> '$.refusal.seq'), 0), count(*) FROM events
		WHERE session_id = ? AND task_id = ? AND CAST(data AS TEXT) ->> '$.type' = ?`, t.SessionID, t.ID, session.EventEgressRefused).Scan(&seq, &count)
	return seq, count, err
}

// PruneEvents removes events of ended tasks: those before a moment, and of each
// session those beyond the newest keep. It works in small transactions, between
// which others write.
func (s *Store) PruneEvents(ctx context.Context, before time.Time, keep int64) (int64, error) {
	removed, err := s.pruneWhere(ctx, `time < ?`, nanos(before))
	if err != nil {
		return removed, err
	}
	rows, err := s.read.QueryContext(ctx, `SELECT id, last_seq FROM sessions WHERE last_seq > ?`, keep)
	if err != nil {
		return removed, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var last int64
		if err := rows.Scan(&id, &last); err != nil {
			return removed, err
		}
		n, err := s.pruneWhere(ctx, `session_id = ? AND seq <= ?`, id, last-keep)
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, rows.Err()
}

// pruneStep is how many events one transaction removes.
const pruneStep = 1000

func (s *Store) pruneWhere(ctx context.Context, where string, args ...any) (removed int64, err error) {
	for {
		res, err := s.write.ExecContext(ctx, `DELETE FROM events WHERE (session_id, seq) IN (
			SELECT session_id, seq FROM events WHERE `+where+`
			AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.id = events.task_id AND t.ended_at = 0) LIMIT `+strconv.Itoa(pruneStep)+`)`, args...)
		if err != nil {
			return removed, fmt.Errorf("remove old events: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return removed, err
		}
		if removed += n; n < pruneStep {
			return removed, nil
		}
	}
}
