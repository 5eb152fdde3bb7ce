package sqlite

import (
	"context"
	"database/sql"
	"time"

	"claude-runner/session"
)

const sessionColumns = `id, agent, agent_id, turns, cost_usd, budget_usd, created_at, updated_at, owner`

// Session returns one session, or session.ErrNotFound.
func (s *Store) Session(ctx context.Context, id string) (session.Session, error) {
	out, err := scanSession(s.read.QueryRowContext(ctx, `SELECT `+sessionColumns+` FROM sessions WHERE id = ?`, id))
	return out, found(err)
}

// Sessions returns an owner's sessions, or all where that is "", the last used
// first.
func (s *Store) Sessions(ctx context.Context, owner string) ([]session.Session, error) {
	where, args := "", []any{}
	if owner != "" {
		where, args = " WHERE owner = ?", append(args, owner)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+sessionColumns+` FROM sessions`+where+` ORDER BY updated_at DESC, id`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []session.Session{}
	for rows.Next() {
		one, err := scanSession(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, rows.Err()
}

// DeleteSession removes a session with its tasks and events. What they used is
// kept.
func (s *Store) DeleteSession(ctx context.Context, id string) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE id = ?`, id)
		return err
	})
}

// SetBudget implements session.Store.
func (s *Store) SetBudget(ctx context.Context, id string, usd *float64) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE sessions SET budget_usd = ? WHERE id = ?`, usd, id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return session.ErrNotFound
	})
}

type row interface{ Scan(...any) error }

func scanSession(r row) (session.Session, error) {
	var v session.Session
	var created, updated int64
	err := r.Scan(&v.ID, &v.Agent, &v.AgentID, &v.Turns, &v.CostUSD, &v.BudgetUSD, &created, &updated, &v.Owner)
	v.CreatedAt, v.UpdatedAt = moment(created), moment(updated)
	return v, err
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func moment(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
