package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// PruneEvents removes events of ended tasks: those before a moment, and of each
// session those beyond the newest keep. It works in small transactions, between
// which others write. The events of a session are in the order of their time;
// where a clock was set back, one goes when those before it do.
func (s *Store) PruneEvents(ctx context.Context, before time.Time, keep int64) (removed int64, err error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id, first, last FROM (
		SELECT id,
			(SELECT min(seq) FROM events WHERE session_id = s.id) AS first,
			max(newest - ?2, coalesce((SELECT seq - 1 FROM events WHERE session_id = s.id AND time >= ?1 ORDER BY seq LIMIT 1), newest)) AS last
		FROM (SELECT id, (SELECT max(seq) FROM events WHERE session_id = sessions.id) AS newest FROM sessions) s
		WHERE newest IS NOT NULL
	) WHERE first <= last`, nanos(before), keep)
	if err != nil {
		return 0, fmt.Errorf("find old events: %w", err)
	}
	defer rows.Close()
	var due []eventRange
	var count int64
	flush := func() error {
		n, err := s.removeEvents(ctx, due)
		removed, due, count = removed+n, due[:0], 0
		return err
	}
	for rows.Next() {
		var r eventRange
		var last int64
		if err := rows.Scan(&r.sessionID, &r.first, &last); err != nil {
			return removed, err
		}
		for ; r.first <= last; r.first = r.last + 1 {
			r.last = min(last, r.first+pruneStep-count-1)
			due, count = append(due, r), count+r.last-r.first+1
			if count < pruneStep {
				continue
			}
			if err := flush(); err != nil {
				return removed, err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return removed, err
	}
	return removed, flush()
}

// pruneStep is how many events one transaction removes at most.
const pruneStep = 1000

// eventRange is events of one session, by their numbers.
type eventRange struct {
	sessionID   string
	first, last int64
}

// removeEvents removes those of the events whose tasks have ended, and notes how
// far their sessions had come.
func (s *Store) removeEvents(ctx context.Context, ranges []eventRange) (removed int64, err error) {
	if len(ranges) == 0 {
		return 0, nil
	}
	err = s.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		note, err := tx.PrepareContext(ctx, `UPDATE sessions SET last_seq = max(last_seq, ?) WHERE id = ?`)
		if err != nil {
			return err
		}
		defer note.Close()
		remove, err := tx.PrepareContext(ctx, `DELETE FROM events WHERE session_id = ? AND seq BETWEEN ? AND ?
			AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.id = events.task_id AND t.ended_at = 0)`)
		if err != nil {
			return err
		}
		defer remove.Close()
		for _, r := range ranges {
			if _, err := note.ExecContext(ctx, r.last, r.sessionID); err != nil {
				return fmt.Errorf("note the last event's number: %w", err)
			}
			res, err := remove.ExecContext(ctx, r.sessionID, r.first, r.last)
			if err != nil {
				return fmt.Errorf("remove old events: %w", err)
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			removed += n
		}
		return nil
	})
	if err != nil {
		removed = 0
	}
	return removed, err
}
