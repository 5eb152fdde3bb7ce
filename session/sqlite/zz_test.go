package sqlite_test

import (
	"path/filepath"
	"testing"
	"time"

	"claude-runner/session"
)

func TestZZ(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	s := open(t, path)
	db := raw(t, path)
	for _, q := range []string{
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 100000) INSERT INTO sessions (id, agent, agent_id, turns, cost_usd, created_at, updated_at) SELECT lower(hex(randomblob(8)))||i, 'a', '', 0, 0, i, i FROM n`,
		`INSERT INTO tasks (id, session_id, agent, backend, state, request, result, created_at, started_at, ended_at) SELECT 't'||id, id, 'a', 'b', CASE WHEN rowid = 7 THEN 'succeeded' WHEN rowid=9 THEN 'aborted' ELSE 'failed' END, '{"message":"`+string(make([]byte, 0))+`xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}', '{}', 1, 1, 1 FROM sessions`,
		`INSERT INTO events SELECT id, n, 't'||id, created_at, randomblob(250), 0 FROM sessions, (SELECT 1 n UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5)`,
	} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	for _, st := range session.TaskStates {
		b := time.Now()
		got, _, err := s.Tasks(t.Context(), session.TaskFilter{State: st})
		t.Log(st, len(got), err, time.Since(b))
	}
	b := time.Now()
	n, err := s.PruneEvents(t.Context(), time.Unix(0, 2), 1<<63-1)
	t.Log("prune little", n, err, time.Since(b))
	b = time.Now()
	n, err = s.PruneEvents(t.Context(), time.Unix(0, 40000), 1<<63-1)
	t.Log("prune", n, err, time.Since(b))
	t.Log(plan(t, db, "SELECT * FROM audit WHERE seq > 1 AND (key_id = ? AND key_id <> '' OR key_name = ? AND key_name <> '') ORDER BY seq LIMIT 100", "a", "a"))
	t.Log(plan(t, db, "SELECT step FROM events WHERE session_id = (SELECT session_id FROM tasks WHERE id = ?1) AND task_id = ?1 AND step > 0 ORDER BY seq DESC LIMIT 1", "a"))
}
