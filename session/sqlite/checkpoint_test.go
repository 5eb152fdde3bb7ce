package sqlite_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"claude-runner/session"
	"claude-runner/session/sqlite"
)

// What is written reaches the database's own file while that stays open, and the
// log beside it is cut when it was long.
func TestLogIsCopiedAndCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	size := func(suffix string) int64 {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the file has %d bytes, its log %d", what, size(""), size("-wal"))
			}
		}
	}
	now := time.Now()
	must(t, s, session.Change{Create: &session.Creation{
		Session: session.Session{ID: "s", CreatedAt: now}, Task: session.Task{ID: "t", SessionID: "s", State: session.TaskQueued, CreatedAt: now},
	}})
	data := []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
	const events = 20
	for seq := range int64(events) {
		must(t, s, session.Change{Events: []session.Record{{SessionID: "s", TaskID: "t", Seq: seq + 1, Time: now, Data: data}}})
	}
	eventually("not copied", func() bool { return size("") > events<<20 })
	if got := size("-wal"); got < events<<20 {
		t.Errorf("the log has %d bytes after %d MiB were written", got, events)
	}
	last := int64(events)
	eventually("not cut", func() bool {
		last++
		must(t, s, session.Change{Events: []session.Record{{SessionID: "s", TaskID: "t", Seq: last, Time: now, Data: []byte(`1`)}}})
		return size("-wal") < 1<<20
	})
	if got, err := s.LastSeq(t.Context(), "s"); err != nil || got != last {
		t.Errorf("the last event is %d, want %d: %v", got, last, err)
	}
}
