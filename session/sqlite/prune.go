package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"time"
)

const (
	prunePage = 250  // sessions that are looked up at once
	pruneStep = 1000 // events that one transaction removes at most
)

// PruneEvents removes events of ended tasks: those before a moment, and of each
// session those beyond the newest keep. It works in small transactions, between
// which others write. The events of a session are in the order of their time;
// where a clock was set back, one goes when those before it do.
func (s *Store) PruneEvents(ctx context.Context, before time.Time, keep int64) (removed int64, err error) {
	for after := ""; ; {
		old, err := s.oldEvents(ctx, before, keep, after)
		if err != nil {
			return removed, fmt.Errorf("find old events: %w", err)
		}
		for step := range steps(old) {
			n, err := s.removeEvents(ctx, step)
			removed += n
			if err != nil {
				return removed, err
			}
		}
		if len(old) < prunePage {
			return removed, nil
		}
		after = old[len(old)-1].sessionID
	}
}

// eventRange is events of one session, by their numbers.
type eventRange struct {
	sessionID   string
	first, last int64
}

// oldEvents returns those of the next sessions, in the order of their ids.
func (s *Store) oldEvents(ctx context.Context, before time.Time, keep int64, after string) ([]eventRange, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id, first, last FROM (
		SELECT id, (SELECT min(seq) FROM events WHERE session_id = s.id) AS first, max(
			newest - ?2,
			coalesce((SELECT seq - 1 FROM events WHERE session_id = s.id AND time >= ?1 ORDER BY seq LIMIT 1), newest)
		) AS last
		FROM (SELECT id, (SELECT max(seq) FROM events WHERE session_id = sessions.id) AS newest FROM sessions WHERE id > ?3) s
		WHERE newest IS NOT NULL
	) WHERE first <= last ORDER BY id LIMIT ?4`, nanos(before), keep, after, prunePage)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var old []eventRange
	for rows.Next() {
		var r eventRange
		if err := rows.Scan(&r.sessionID, &r.first, &r.last); err != nil {
			return nil, err
		}
		old = append(old, r)
	}
	return old, rows.Err()
}

// steps divides ranges into what one transaction removes.
func steps(ranges []eventRange) iter.Seq[[]eventRange] {
	return func(yield func([]eventRange) bool) {
		var step []eventRange
		room := int64(pruneStep)
		for _, r := range ranges {
			for r.first <= r.last {
				part := eventRange{r.sessionID, r.first, min(r.last, r.first+room-1)}
				step, room, r.first = append(step, part), room-(part.last-part.first+1), part.last+1
				if room > 0 {
					continue
				}
				if !yield(step) {
					return
				}
				step, room = nil, pruneStep
			}
		}
		if len(step) > 0 {
			yield(step)
		}
	}
}

// removeEvents removes those of the events whose tasks have ended, and notes how
// far their sessions had come.
func (s *Store) removeEvents(ctx context.Context, ranges []eventRange) (removed int64, err error) {
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
