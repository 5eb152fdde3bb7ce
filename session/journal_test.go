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

// TestTransactionHasAllThatCame: what comes while a transaction is written is the
// next one, all of it.
func TestTransactionHasAllThatCame(t *testing.T) {
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
		has := func(what string, want int) {
			t.Helper()
			if got := <-store.sizes; got != want {
				t.Errorf("%s: a transaction of %d, want %d", what, got, want)
			}
		}
		submit(1)
		has("one alone", 1)
		submit(40)
		store.write <- struct{}{}
		has("behind it", 40)
		store.write <- struct{}{}
		submit(1)
		has("behind that", 1) // and no more is waited for
		store.write <- struct{}{}
	})
}
