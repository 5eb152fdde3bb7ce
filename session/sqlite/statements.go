package sqlite

import (
	"context"
	"database/sql"
	"strings"
)

// statements are those that every task runs, prepared once: SQLite takes longer
// to read such a statement than to do what it says.
type statements struct {
	// Of the connection that writes.
	createSession, createTask, startTask, updateTask, beginSteps, endTask        *sql.Stmt
	endSession, findSession, insertEvent, insertEvents, insertUsage, insertAudit *sql.Stmt

	// Of those that read.
	readSession, readTask, readLastSeq *sql.Stmt
}

func (s *Store) prepare(ctx context.Context) error {
	for _, p := range []struct {
		db   *sql.DB
		stmt **sql.Stmt
		text string
	}{
		{s.write, &s.createSession, `INSERT INTO sessions (` + sessionColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at`},
		{s.write, &s.createTask, `INSERT INTO tasks (` + taskColumns + `) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`},
		{s.write, &s.startTask, updateTask + ` AND started_at = 0`},
		{s.write, &s.updateTask, updateTask},
		{s.write, &s.beginSteps, `UPDATE events SET step = 0 WHERE session_id = ? AND task_id = ? AND step > 0`},
		{s.write, &s.endTask, `UPDATE tasks SET state = ?, backend = ?, request = ?, result = ?, started_at = ?, ended_at = ?, webhook = ''
			WHERE id = ? AND ended_at = 0`},
		{s.write, &s.endSession, `UPDATE sessions SET agent_id = CASE WHEN ?1 = '' THEN agent_id ELSE ?1 END,
			turns = turns + ?2, cost_usd = cost_usd + ?3, updated_at = max(updated_at, ?4) WHERE id = ?5`},
		{s.write, &s.findSession, `UPDATE sessions SET last_seq = last_seq WHERE id = ?`},
		{s.write, &s.insertEvent, insertEvents(1)},
		{s.write, &s.insertEvents, insertEvents(eventRows)},
		{s.write, &s.insertUsage, `INSERT INTO usage (` + usageColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`},
		{s.write, &s.insertAudit, `INSERT INTO audit (` + auditColumns + `) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`},

		{s.read, &s.readSession, `SELECT ` + sessionColumns + ` FROM sessions WHERE id = ?`},
		{s.read, &s.readTask, `SELECT ` + taskColumns + ` FROM tasks WHERE id = ?`},
		{s.read, &s.readLastSeq, `SELECT max(last_seq, coalesce((SELECT max(seq) FROM events WHERE session_id = ?1), 0)) FROM sessions WHERE id = ?1`},
	} {
		var err error
		if *p.stmt, err = p.db.PrepareContext(ctx, p.text); err != nil { //nolint:sqlclosecheck // the database's Close closes it
			return err
		}
	}
	return nil
}

const updateTask = `UPDATE tasks SET state = ?, backend = ?, sandbox = ?, started_at = ?, turn_from = ? WHERE id = ? AND ended_at = 0`

// insertEvents inserts n events. OR FAIL spares SQLite to note how to take back a
// part of them: who fails here takes back all of the transaction.
func insertEvents(n int) string {
	return `INSERT OR FAIL INTO events (session_id, seq, task_id, step, time, data) VALUES (?, ?, ?, ?, ?, ?)` +
		strings.Repeat(`, (?, ?, ?, ?, ?, ?)`, n-1)
}

// exec runs a prepared statement in a transaction.
func exec(ctx context.Context, tx *sql.Tx, stmt *sql.Stmt, args ...any) (sql.Result, error) {
	bound := tx.StmtContext(ctx, stmt)
	defer bound.Close()
	return bound.ExecContext(ctx, args...)
}
