package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"claude-runner/session"
)

const auditColumns = `seq, at, request_id, key_id, key_name, remote, action, session_id, task_id, agent, target, status, code`

// insertAudit adds an entry. The table's triggers refuse to change or remove one.
const (
	insertAudit = `INSERT INTO audit (` + auditColumns + `)`
	auditValues = `(NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
)

func appendAudit(row []any, e *session.AuditEntry) []any {
	return append(row, nanos(e.At), e.RequestID, e.KeyID, e.KeyName, e.Remote, e.Action,
		e.Session, e.Task, e.Agent, e.Target, int64(e.Status), string(e.Code))
}

func writeAudit(ctx context.Context, tx *sql.Tx, e session.AuditEntry) error {
	if _, err := tx.ExecContext(ctx, insertAudit+` VALUES `+auditValues, appendAudit(nil, &e)...); err != nil {
		return fmt.Errorf("write audit: %w", err)
	}
	return nil
}

// Audit returns entries in the order in which they were written.
func (s *Store) Audit(ctx context.Context, q session.AuditQuery) ([]session.AuditEntry, error) {
	where, args := []string{"seq > ?"}, []any{q.After}
	if q.Session != "" {
		where, args = append(where, "session_id = ?"), append(args, q.Session)
	}
	if q.Key != "" {
		where, args = append(where, "(key_id = ? AND key_id <> '' OR key_name = ? AND key_name <> '')"), append(args, q.Key, q.Key)
	}
	limit := q.Limit
	if limit == 0 {
		limit = 100
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+auditColumns+` FROM audit WHERE `+strings.Join(where, " AND ")+` ORDER BY seq LIMIT ?`, append(args, limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []session.AuditEntry{}
	for rows.Next() {
		var e session.AuditEntry
		var at int64
		err := rows.Scan(&e.Seq, &at, &e.RequestID, &e.KeyID, &e.KeyName, &e.Remote, &e.Action, &e.Session, &e.Task, &e.Agent, &e.Target, &e.Status, &e.Code)
		if err != nil {
			return nil, err
		}
		e.At = moment(at)
		out = append(out, e)
	}
	return out, rows.Err()
}
