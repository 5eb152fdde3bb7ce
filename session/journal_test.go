package session_test

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"claude-runner/agent"
	"claude-runner/session"
)

// TestLater: what nobody waits for is stored before what is handed over after
// it, together with that, and soon where nothing comes.
func TestLater(t *testing.T) {
	l := openLog(t, filepath.Join(t.TempDir(), "runner.db"))
	c := read(t, l, "s1", 0)
	if err := l.Append("s1", text(1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Later("s1", session.Change{}, text(2)); err != nil {
		t.Fatal(err)
	}
	if err := l.Write("s1", session.Change{}, true, text(3)); err != nil {
		t.Fatal(err)
	}
	if err := l.Append("s1", text(4)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(got) < 4 {
		records, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			var e session.Event
			if err := json.Unmarshal(r.Data, &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Text)
		}
	}
	for i, want := range []string{"1", "2", "3", "4"} {
		if got[i] != want {
			t.Errorf("events %v", got)
			break
		}
	}
}

// TestNumbersOfANewSession: a session that was deleted leaves no numbers to the
// next of its name.
func TestNumbersOfANewSession(t *testing.T) {
	store := openStore(t, filepath.Join(t.TempDir(), "runner.db"))
	l := session.OpenEventLog(store, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { l.Close() })
	for i, id := range []string{"a", "b"} {
		task := session.Task{ID: id, SessionID: "s", State: session.TaskQueued, CreatedAt: time.Now()}
		create := session.Change{Create: &session.Creation{Session: session.Session{ID: "s", CreatedAt: time.Now()}, Task: task}}
		for n := range 2 {
			if err := l.Write("s", create, true, session.Event{Event: agent.Event{Type: agent.EventText}}); err != nil {
				t.Fatal(err)
			}
			create = session.Change{}
			if last, err := store.LastSeq(t.Context(), "s"); err != nil || last != int64(n)+1 {
				t.Errorf("round %d: last event %d, want %d: %v", i, last, n+1, err)
			}
		}
		l.Drop("s")
		if err := store.DeleteSession(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
		l.Drop("s")
	}
}
