package session_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
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

// batches is a store that tells how many changes each transaction has.
type batches struct {
	session.Store
	sizes chan int
	write chan struct{} // a transaction ends when one is taken from it
}

func (b *batches) Apply(_ context.Context, changes []session.Change) error {
	if len(changes) > 0 {
		b.sizes <- len(changes)
		<-b.write
	}
	return nil
}

// TestCrowdIsGathered: behind a transaction for which many waited, the next one has
// those who come a little later, as many as are enough, or who came in time.
func TestCrowdIsGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &batches{sizes: make(chan int, 1), write: make(chan struct{})}
		l := session.OpenEventLog(store, slog.New(slog.DiscardHandler))
		defer l.Close()
		submit := func(n int) {
			for i := range n {
				l.Begin(fmt.Sprint(i), session.Change{}, true)
			}
			synctest.Wait()
		}
		begun := time.Now()
		holds := func(what string, size int, after time.Duration) {
			t.Helper()
			if got, took := <-store.sizes, time.Since(begun); got != size || took != after {
				t.Errorf("%s: a transaction of %d after %v, want %d after %v", what, got, took, size, after)
			}
			begun = time.Now()
		}
		submit(1)
		holds("one alone", 1, 0)
		submit(3) // while that one is written
		store.write <- struct{}{}
		holds("behind one alone", 3, 0)
		store.write <- struct{}{}
		submit(4)
		if len(store.sizes) > 0 {
			t.Error("four behind a crowd are not waited for")
		}
		submit(1)
		holds("five behind a crowd", 5, 0)
		store.write <- struct{}{}
		submit(2)
		holds("two behind a crowd", 2, time.Millisecond)
		store.write <- struct{}{}
		submit(1)
		holds("one behind two", 1, 0)
		store.write <- struct{}{}
	})
}
