package sqlite

import (
	"context"
	"fmt"
	"time"

	"claude-runner/session"
)

const usageColumns = `task_id, session_id, agent, model, backend, ended_at, duration, cost_usd,
	input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens, owner`

// groups are the columns that usage is summed by.
var groups = map[session.UsageGroup]string{
	session.ByAgent:   "agent",
	session.BySession: "session_id",
	session.ByModel:   "model",
	session.ByBackend: "backend",
	session.ByDay:     "strftime('%Y-%m-%d', ended_at / 1000000000, 'unixepoch')",
}

// Usage sums what ended tasks have used.
func (s *Store) Usage(ctx context.Context, q session.UsageQuery) ([]session.UsageSum, error) {
	group, ok := groups[q.GroupBy]
	if !ok {
		return nil, fmt.Errorf("usage by %q: there is no such group", q.GroupBy)
	}
	to := nanos(q.To)
	if q.To.IsZero() {
		to = 1<<63 - 1
	}
	where, args := "ended_at >= ? AND ended_at < ?", []any{nanos(q.From), to}
	if q.Owner != "" {
		where, args = "owner = ? AND owner <> '' AND "+where, append([]any{q.Owner}, args...)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+group+`, count(*), sum(cost_usd), sum(duration),
		sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(cache_creation_tokens)
		FROM usage WHERE `+where+` GROUP BY 1 ORDER BY 1`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []session.UsageSum{}
	for rows.Next() {
		var u session.UsageSum
		var duration int64
		err := rows.Scan(&u.Group, &u.Tasks, &u.CostUSD, &duration,
			&u.Usage.InputTokens, &u.Usage.OutputTokens, &u.Usage.CacheReadInputTokens, &u.Usage.CacheCreationInputTokens)
		if err != nil {
			return nil, err
		}
		u.Duration = time.Duration(duration)
		out = append(out, u)
	}
	return out, rows.Err()
}

// Spent implements session.Store.
func (s *Store) Spent(ctx context.Context, agent string, since time.Time) (float64, error) {
	var usd float64
	err := s.read.QueryRowContext(ctx, `SELECT coalesce(sum(cost_usd), 0) FROM usage WHERE agent = ? AND ended_at >= ?`, agent, nanos(since)).Scan(&usd)
	return usd, err
}
