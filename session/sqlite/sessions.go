package sqlite

import (
	"context"
	"database/sql"
	"math"
	"strconv"
	"strings"
	"time"

	"claude-runner/session"
)

const sessionColumns = `id, agent, agent_id, turns, cost_usd, budget_usd, created_at, updated_at, owner`

// Session returns one session, or session.ErrNotFound.
func (s *Store) Session(ctx context.Context, id string) (session.Session, error) {
	out, err := scanSession(s.readSession.QueryRowContext(ctx, id))
	return out, found(err)
}

// Sessions returns a page of sessions, the last used first. A cursor is the
// time of use of the page's last session, and its id.
func (s *Store) Sessions(ctx context.Context, p session.Page) ([]session.Session, string, error) {
	used, id := int64(math.MaxInt64), ""
	if p.Cursor != "" {
		var err error
		if used, id, err = splitCursor(p.Cursor); err != nil {
			return nil, "", err
		}
	}
	limit := -1 // none
	if p.Limit > 0 {
		limit = p.Limit + 1
	}
	owned, args := "", []any{used, id, limit}
	if p.Owner != "" {
		owned, args = "owner = ?4 AND owner <> '' AND ", append(args, p.Owner)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+sessionColumns+` FROM sessions WHERE `+owned+
		`updated_at <= ?1 AND (updated_at < ?1 OR id > ?2) ORDER BY updated_at DESC, id LIMIT ?3`, args...)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	out := []session.Session{}
	for rows.Next() {
		one, err := scanSession(rows)
		if err != nil {
			return nil, "", err
		}
		out = append(out, one)
	}
	if err := rows.Err(); err != nil || p.Limit == 0 || len(out) <= p.Limit {
		return out, "", err
	}
	out = out[:p.Limit]
	last := out[p.Limit-1]
	return out, strconv.FormatInt(nanos(last.UpdatedAt), 10) + "." + last.ID, nil
}

func splitCursor(cursor string) (used int64, id string, err error) {
	number, id, _ := strings.Cut(cursor, ".")
	if used, err = strconv.ParseInt(number, 10, 64); err != nil {
		return 0, "", errCursor
	}
	return used, id, nil
}

// errCursor is said of a cursor that no page gave.
var errCursor = &session.Error{Code: session.CodeInvalid, Field: "cursor", Message: "cursor: is not one that a page before this one gave"}

// DeleteSession removes a session with its tasks and events. What they used is
// kept.
func (s *Store) DeleteSession(ctx context.Context, id string) error {
	return s.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE id = ?`, id)
		return err
	})
}

// SetBudget implements session.Store.
func (s *Store) SetBudget(ctx context.Context, id string, usd *float64) error {
	return s.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
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

// orNull returns the number, or what the driver takes for NULL.
func orNull(n *float64) any {
	if n == nil {
		return nil
	}
	return *n
}

func moment(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
