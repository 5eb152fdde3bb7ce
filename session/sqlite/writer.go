package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
)

// writer is the connection that writes, with the statements that tasks run on it,
// prepared once: SQLite takes longer to read such a statement than to do what it
// says, and database/sql longer to find it. Who has the connection from the pool
// has the writer.
type writer struct {
	conn driver.Conn
	args []driver.NamedValue // of the statement that runs
	all  []driver.Stmt

	begin, commit, rollback                                   driver.Stmt
	takeKey, forgetKeys, noteUse, enqueue                     driver.Stmt
	createSession, createTask, startTask, updateTask, endTask driver.Stmt
	endSession, findSession, beginSteps                       driver.Stmt
	events, usage, audit                                      insertion
}

func newWriter(conn driver.Conn) (_ *writer, err error) {
	w := &writer{conn: conn}
	for _, p := range []struct {
		stmt *driver.Stmt
		text string
	}{
		{&w.begin, `BEGIN IMMEDIATE`},
		{&w.commit, `COMMIT`},
		{&w.rollback, `ROLLBACK`},

		{&w.forgetKeys, `DELETE FROM keys WHERE at < ?`},
		{&w.takeKey, `INSERT INTO keys (caller, name, hash, task_id, at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`},
		{&w.noteUse, `UPDATE api_keys SET last_used_at = max(last_used_at, ?) WHERE id = ?`},
		{&w.enqueue, `INSERT INTO deliveries (host, ` + deliveryColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`},

		{&w.createSession, `INSERT INTO sessions (` + sessionColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at`},
		{&w.createTask, `INSERT INTO tasks (` + taskColumns + `) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`},
		{&w.startTask, updateTask + ` AND state = 'queued' AND started_at = 0`},
		{&w.updateTask, updateTask},
		{&w.endTask, `UPDATE tasks SET state = ?, backend = ?, request = ?, result = ?, started_at = ?, ended_at = ?, webhook = ''
			WHERE id = ? AND ended_at = 0`},
		{&w.endSession, `UPDATE sessions SET agent_id = CASE WHEN ?1 = '' THEN agent_id ELSE ?1 END,
			turns = turns + ?2, cost_usd = cost_usd + ?3, updated_at = max(updated_at, ?4) WHERE id = ?5`},
		{&w.findSession, `UPDATE sessions SET last_seq = last_seq WHERE id = ?`},
		{&w.beginSteps, `UPDATE events SET step = 0 WHERE session_id = ? AND task_id = ? AND step > 0`},
	} {
		if *p.stmt, err = w.prepare(p.text); err != nil {
			return nil, errors.Join(err, w.close())
		}
	}
	// OR FAIL spares SQLite to note how to take back a part of the rows: who fails
	// here takes back all of the transaction.
	err = errors.Join(
		w.events.prepare(w, `INSERT OR FAIL INTO events (session_id, seq, task_id, step, time, data)`, `(?, ?, ?, ?, ?, ?)`),
		w.usage.prepare(w, `INSERT OR FAIL INTO usage (`+usageColumns+`)`, `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`),
		w.audit.prepare(w, insertAudit, auditValues),
	)
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *writer) prepare(text string) (driver.Stmt, error) {
	stmt, err := w.conn.Prepare(text)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", text, err)
	}
	w.all = append(w.all, stmt)
	return stmt, nil
}

const updateTask = `UPDATE tasks SET state = ?, backend = ?, sandbox = ?, started_at = ?, turn_from = ? WHERE id = ? AND ended_at = 0`

// insertion writes rows of one table, several with one statement.
type insertion struct {
	columns int
	of      [len(rowsAtOnce)]driver.Stmt
}

// rowsAtOnce is how many rows the statements of an insertion write.
var rowsAtOnce = [...]int{16, 4, 1}

// prepare prepares statements that begin with a text and go on with rows.
func (in *insertion) prepare(w *writer, text, row string) (err error) {
	in.columns = strings.Count(row, "?")
	for i, n := range rowsAtOnce {
		if in.of[i], err = w.prepare(text + " VALUES " + row + strings.Repeat(", "+row, n-1)); err != nil {
			return err
		}
	}
	return nil
}

// insert writes rows, whose values follow one another.
func (w *writer) insert(in *insertion, values []any) error {
	for i, n := range rowsAtOnce {
		for n *= in.columns; len(values) >= n; values = values[n:] {
			if _, err := w.exec(in.of[i], values[:n]...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) close() error {
	var errs []error
	for _, stmt := range w.all {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(errs...)
}

// inTx runs do in a transaction.
func (w *writer) inTx(do func() error) error {
	if _, err := w.exec(w.begin); err != nil {
		return err
	}
	err := do()
	if err == nil {
		_, err = w.exec(w.commit)
	}
	if err != nil {
		// SQLite takes a transaction back itself where the disk fails, and has none
		// to take back then.
		_, _ = w.exec(w.rollback)
	}
	return err
}

// exec runs a statement and returns how many rows it has changed. Its arguments
// are of the types that driver.Value names.
func (w *writer) exec(stmt driver.Stmt, args ...any) (changed int64, err error) {
	w.args = w.args[:0]
	for i, a := range args {
		w.args = append(w.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	// It waits for nobody, and one that could be cancelled costs a goroutine.
	res, err := stmt.(driver.StmtExecContext).ExecContext(context.Background(), w.args)
	clear(w.args) // of what may be large
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
