package sqlite

import (
	"context"
	"database/sql"
)

// statements are those that reading runs for every task, prepared once.
type statements struct {
	readSession, readTask, readLastSeq *sql.Stmt
}

func (s *Store) prepare(ctx context.Context) error {
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&s.readSession, `SELECT ` + sessionColumns + ` FROM sessions WHERE id = ?`},
		{&s.readTask, `SELECT ` + taskColumns + ` FROM tasks WHERE id = ?`},
		{&s.readLastSeq, `SELECT max(last_seq, coalesce((SELECT max(seq) FROM events WHERE session_id = ?1), 0)) FROM sessions WHERE id = ?1`},
	} {
		var err error
		if *p.stmt, err = s.read.PrepareContext(ctx, p.text); err != nil { //nolint:sqlclosecheck // the database's Close closes it
			return err
		}
	}
	return nil
}
