package logvfs_test

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"claude-runner/session/sqlite/logvfs"
)

// open opens a database with one connection; vfs "" is SQLite's own.
func open(t testing.TB, path, vfs string, pragmas ...string) *sql.DB {
	t.Helper()
	if err := logvfs.Register(); err != nil {
		t.Fatal(err)
	}
	q := url.Values{"_pragma": append([]string{"journal_mode(WAL)", "synchronous(NORMAL)", "busy_timeout(5000)", "wal_autocheckpoint(0)"}, pragmas...)}
	if vfs != "" {
		q.Set("vfs", vfs)
	}
	db, err := sql.Open("sqlite", "file:"+url.PathEscape(path)+"?"+q.Encode())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	return db
}

func exec(t testing.TB, db *sql.DB, statement string, args ...any) {
	t.Helper()
	if _, err := db.Exec(statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// rows returns all that a database's table has, as text.
func rows(t testing.TB, db *sql.DB) string {
	t.Helper()
	found, err := db.Query(`SELECT id, length(data), substr(hex(data), 1, 8) FROM things ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	var b strings.Builder
	for found.Next() {
		var id, size int
		var data string
		if err := found.Scan(&id, &size, &data); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, id, size, data)
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const makeThings = `CREATE TABLE things (id INTEGER PRIMARY KEY, data BLOB NOT NULL); CREATE INDEX by_data ON things (data)`

// TestWhatIsCommittedIsInTheFiles holds that a database whose process ended at
// once behind a commit, and a reader beside it, have what was committed and
// nothing else, whatever came before: pages that left a small cache in the midst
// of a transaction, and transactions and parts of them that were taken back.
func TestWhatIsCommittedIsInTheFiles(t *testing.T) {
	t.Parallel()
	const commits = 80
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	path := filepath.Join(dir, "a.db")
	db := open(t, path, logvfs.Name, "cache_size(4)")
	exec(t, db, makeThings)
	beside := open(t, path, "", "query_only(1)")
	for n := range commits {
		want := ""
		for want == "" {
			tx, err := db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			change(t, tx, r)
			if r.IntN(3) == 0 {
				if err := tx.Rollback(); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			want = rows(t, db)
		}
		if got := rows(t, beside); got != want {
			t.Fatalf("commit %d: a reader finds\n%s\nwant\n%s", n, got, want)
		}
		if n%10 == 0 {
			crashed := filepath.Join(dir, fmt.Sprintf("%d.db", n))
			for _, suffix := range []string{"", "-wal"} {
				data, err := os.ReadFile(path + suffix)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(crashed+suffix, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			left := open(t, crashed, "")
			if got := rows(t, left); got != want {
				t.Fatalf("commit %d: the files have\n%s\nwant\n%s", n, got, want)
			}
			var verdict string
			if err := left.QueryRow(`PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
				t.Fatalf("commit %d: integrity_check: %s %v", n, verdict, err)
			}
		}
		if mode := []string{"PASSIVE", "RESTART", "TRUNCATE"}[r.IntN(3)]; r.IntN(20) == 0 {
			exec(t, db, "PRAGMA wal_checkpoint("+mode+")")
		}
	}
}

// change makes changes by chance, some of which it takes back.
func change(t *testing.T, tx *sql.Tx, r *rand.Rand) {
	t.Helper()
	do := func(statement string, args ...any) {
		if _, err := tx.Exec(statement, args...); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	for range 1 + r.IntN(4) {
		taken := r.IntN(3) == 0
		if taken {
			do(`SAVEPOINT s`)
		}
		for range 1 + r.IntN(30) {
			data := make([]byte, 1+r.IntN(3000))
			for i := range data[:min(len(data), 8)] {
				data[i] = byte(r.Uint32())
			}
			switch id := r.IntN(300); r.IntN(4) {
			case 0:
				do(`DELETE FROM things WHERE id = ?`, id)
			default:
				do(`INSERT INTO things VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET data = excluded.data`, id, data)
			}
		}
		if taken {
			do(`ROLLBACK TO s`)
		}
	}
}

// TestTwoDatabasesAtOnce holds that logs are not taken for one another.
func TestTwoDatabasesAtOnce(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			db := open(t, filepath.Join(t.TempDir(), "a.db"), logvfs.Name)
			exec(t, db, makeThings)
			for n := range 200 {
				exec(t, db, `INSERT INTO things VALUES (?, ?)`, n, []byte{byte(i)})
			}
			var n int
			if err := db.QueryRow(`SELECT count(*) FROM things WHERE data = ?`, []byte{byte(i)}).Scan(&n); err != nil || n != 200 {
				t.Errorf("it has %d of 200 rows, %v", n, err)
			}
		})
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, vfs := range []string{"", logvfs.Name} {
		for _, pages := range []int{1, 8, 20} {
			b.Run(fmt.Sprintf("vfs=%s/pages=%d", vfs, pages), func(b *testing.B) {
				db := open(b, filepath.Join(b.TempDir(), "a.db"), vfs)
				exec(b, db, `CREATE TABLE things (id INTEGER PRIMARY KEY, data BLOB NOT NULL)`)
				for id := range pages {
					exec(b, db, `INSERT INTO things VALUES (?, zeroblob(3500))`, id)
				}
				n := 0
				for b.Loop() {
					exec(b, db, `UPDATE things SET data = zeroblob(3500 + ?)`, n%2)
					if n++; n%1000 == 0 {
						exec(b, db, `PRAGMA wal_checkpoint(TRUNCATE)`)
					}
				}
			})
		}
	}
}
