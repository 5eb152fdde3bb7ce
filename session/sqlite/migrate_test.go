package sqlite_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pressly/goose/v3"

	"claude-runner/session"
	"claude-runner/session/sqlite"
)

func migrations(t *testing.T, db *sql.DB) *goose.Provider {
	t.Helper()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// indexes returns the names of those that the tables have.
func indexes(t *testing.T, db *sql.DB) []string {
	t.Helper()
	rows, err := db.Query(`SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// TestMigrations: a file goes back to what older programs read, and forth again,
// with all that is in it.
func TestMigrations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	create(t, s, "t1", "s1")
	must(t, s, session.Change{Events: events("s1", "t1", 1, 5)})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db := raw(t, path)
	now := indexes(t, db)
	if _, err := migrations(t, db).DownTo(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	before := indexes(t, db)
	for _, name := range []string{"events_by_task", "events_by_time", "tasks_by_state"} {
		if !slices.Contains(before, name) || slices.Contains(now, name) {
			t.Errorf("%s is of version 6 alone: %v, now %v", name, before, now)
		}
	}
	var last int64
	if err := db.QueryRow(`SELECT last_seq FROM sessions WHERE id = 's1'`).Scan(&last); err != nil || last != 5 {
		t.Errorf("version 6 has last_seq %d, %v; want 5", last, err)
	}

	s = open(t, path)
	if diff := cmp.Diff(now, indexes(t, db)); diff != "" {
		t.Errorf("indexes once more (-before +after):\n%s", diff)
	}
	must(t, s, session.Change{Events: events("s1", "t1", 6, 1)})
	if got, err := s.LastSeq(t.Context(), "s1"); err != nil || got != 6 {
		t.Errorf("LastSeq %d, %v; want 6", got, err)
	}
	checkIntegrity(t, path)
}

// TestMigrationsToNothing: every migration can be taken back.
func TestMigrationsToNothing(t *testing.T) {
	db := raw(t, filepath.Join(t.TempDir(), "runner.db"))
	for range 2 {
		if _, err := migrations(t, db).Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := migrations(t, db).DownTo(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if left := indexes(t, db); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}
