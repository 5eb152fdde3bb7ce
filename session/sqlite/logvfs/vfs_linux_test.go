package logvfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/backends/backendtest"
	"claude-runner/session/sqlite/logvfs"
)

// writes is how many system calls of this process have written.
func writes(t *testing.T) (n int) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if _, err := fmt.Sscanf(line, "syscw: %d", &n); err == nil {
			return n
		}
	}
	t.Fatalf("/proc/self/io counts no writes: %s", data)
	return 0
}

func TestATransactionIsOneWrite(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "a.db"), logvfs.Name)
	exec(t, db, `CREATE TABLE things (id INTEGER PRIMARY KEY, data BLOB NOT NULL)`)
	for id := range 20 {
		exec(t, db, `INSERT INTO things VALUES (?, zeroblob(3500))`, id)
	}
	before := writes(t)
	exec(t, db, `UPDATE things SET data = zeroblob(3501)`)
	if n := writes(t) - before; n > 2 { // and one of the runtime, to wake a thread
		t.Errorf("a transaction of 20 pages was written with %d system calls", n)
	}
}

// TestFullDisk holds that a transaction for which there is no room is refused and
// leaves nothing, and the next ones that fit are whole.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(backendtest.SmallDisk(t, "1m"), "a.db")
	db := open(t, path, logvfs.Name)
	defer db.Close()
	exec(t, db, makeThings)
	for id := 0; ; id++ {
		want := rows(t, db)
		if _, err := db.Exec(`INSERT INTO things VALUES (?, zeroblob(60000))`, id); err == nil {
			continue
		} else if !strings.Contains(err.Error(), "full") {
			t.Fatalf("it says %v, not that the disk is full", err)
		}
		if got := rows(t, db); got != want {
			t.Fatalf("a transaction that failed has left\n%s\nwant\n%s", got, want)
		}
		break
	}
	exec(t, db, `INSERT INTO things VALUES (1000, 'small')`)
	beside := open(t, path, "", "query_only(1)")
	defer beside.Close()
	if got, want := rows(t, beside), rows(t, db); got != want || !strings.Contains(got, "1000 5") {
		t.Errorf("a reader finds\n%s\nwant\n%s", got, want)
	}
}
