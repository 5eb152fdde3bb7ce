package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"claude-runner/agent"
	"claude-runner/session"
	"claude-runner/session/sqlite"
)

func openStore(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// openLog returns a log with sessions s0 to s9 in its store.
func openLog(t testing.TB, path string) *session.EventLog {
	t.Helper()
	store := openStore(t, path)
	for i := range 10 {
		id := "s" + strconv.Itoa(i)
		task := session.Task{ID: fmt.Sprintf("%s-%d", id, time.Now().UnixNano()), SessionID: id, State: session.TaskQueued, CreatedAt: time.Now()}
		create := session.Change{Create: &session.Creation{Session: session.Session{ID: id, CreatedAt: time.Now()}, Task: task}}
		if err := store.Apply(t.Context(), []session.Change{create}); err != nil {
			t.Fatal(err)
		}
	}
	l := session.OpenEventLog(store, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { l.Close() })
	return l
}

func text(n int) session.Event {
	return session.Event{Event: agent.Event{Type: agent.EventText, Text: strconv.Itoa(n)}}
}

func appendN(t testing.TB, l *session.EventLog, id string, from, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(id, text(from+i)); err != nil {
			t.Error(err)
			return
		}
	}
}

// readUntil reads events up to the number last, and holds them against the
// contract: each number once, in order, its text the number less one.
func readUntil(t testing.TB, c *session.Cursor, after, last int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for after < last {
		records, err := c.Next(ctx)
		if err != nil {
			t.Errorf("after event %d of %d: %v", after, last, err)
			return
		}
		for _, r := range records {
			var e session.Event
			if err := json.Unmarshal(r.Data, &e); err != nil {
				t.Error(err)
				return
			}
			if r.Seq != after+1 || e.Seq != r.Seq || e.Text != strconv.FormatInt(r.Seq-1, 10) {
				t.Errorf("after event %d came %d with seq %d and text %q", after, r.Seq, e.Seq, e.Text)
				return
			}
			after = r.Seq
		}
	}
}

func read(t testing.TB, l *session.EventLog, id string, after int64) *session.Cursor {
	t.Helper()
	c, err := l.Read(context.Background(), id, after)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestReplayThenLive(t *testing.T) {
	l := openLog(t, filepath.Join(t.TempDir(), "runner.db"))
	const before, after = 3000, 2000 // more than stays in memory, more than a page
	appendN(t, l, "s1", 0, before)
	readUntil(t, read(t, l, "s1", 0), 0, before)
	var g sync.WaitGroup
	for _, from := range []int64{0, 1, 700, before - 1, before} {
		c := read(t, l, "s1", from)
		g.Go(func() { readUntil(t, c, from, before+after) })
	}
	live := read(t, l, "s1", session.Live)
	g.Go(func() { readUntil(t, live, before, before+after) })
	g.Go(func() { appendN(t, l, "s1", before, after) })
	g.Wait()
}

func TestWritersOfManySessions(t *testing.T) {
	l := openLog(t, filepath.Join(t.TempDir(), "runner.db"))
	var g sync.WaitGroup
	for i := range 10 {
		id := "s" + strconv.Itoa(i)
		for range 3 {
			c := read(t, l, id, 0)
			g.Go(func() { readUntil(t, c, 0, 1000) })
		}
		g.Go(func() { appendN(t, l, id, 0, 1000) })
	}
	stuck := read(t, l, "s1", 0) // reads nothing, and holds up nobody
	g.Wait()
	readUntil(t, stuck, 0, 1000)
}

func TestNumbersGoOnAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	first := openLog(t, path)
	appendN(t, first, "s1", 0, 10)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := openLog(t, path)
	appendN(t, second, "s1", 10, 10)
	readUntil(t, read(t, second, "s1", 0), 0, 20)
}

func TestReadersEnd(t *testing.T) {
	tests := []struct {
		name string
		end  func(*session.EventLog, context.CancelFunc)
		want error
	}{
		{"with their context", func(_ *session.EventLog, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"with their session", func(l *session.EventLog, _ context.CancelFunc) { l.Drop("s1") }, session.ErrNotFound},
		{"with the log", func(l *session.EventLog, _ context.CancelFunc) { l.Close() }, session.ErrLogClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := openLog(t, filepath.Join(t.TempDir(), "runner.db"))
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			c := read(t, l, "s1", 0)
			ended := make(chan error, 1)
			go func() {
				_, err := c.Next(ctx)
				ended <- err
			}()
			tt.end(l, cancel)
			if err := <-ended; !errors.Is(err, tt.want) {
				t.Errorf("Next ended with %v, want %v", err, tt.want)
			}
		})
	}
}

func TestAppendAfterClose(t *testing.T) {
	l := openLog(t, filepath.Join(t.TempDir(), "runner.db"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append("s1", text(0)); !errors.Is(err, session.ErrLogClosed) {
		t.Errorf("Append: %v, want ErrLogClosed", err)
	}
}

// BenchmarkEventLogAppend writes the pieces of what a model says in one session,
// while one reads.
func BenchmarkEventLogAppend(b *testing.B) {
	path := filepath.Join(b.TempDir(), "runner.db")
	l := openLog(b, path)
	c := read(b, l, "s1", 0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		readUntil(b, c, 0, int64(b.N))
	}()
	for i := 0; b.Loop(); i++ {
		if err := l.Append("s1", text(i)); err != nil {
			b.Fatal(err)
		}
	}
	<-done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkEventLogSize tells how much of the disk the events of real turns
// take.
func BenchmarkEventLogSize(b *testing.B) {
	const events = 50000
	for b.Loop() {
		path := filepath.Join(b.TempDir(), "runner.db")
		store, err := sqlite.Open(b.Context(), path)
		if err != nil {
			b.Fatal(err)
		}
		task := session.Task{ID: "01a2144e-4312-79e2-95ac-3c7365cbea53", SessionID: "user-4711", State: session.TaskQueued, CreatedAt: time.Now()}
		create := session.Change{Create: &session.Creation{Session: session.Session{ID: task.SessionID, CreatedAt: time.Now()}, Task: task}}
		if err := store.Apply(b.Context(), []session.Change{create}); err != nil {
			b.Fatal(err)
		}
		l := session.OpenEventLog(store, slog.New(slog.DiscardHandler))
		began := time.Now()
		for i := range events {
			e := session.Event{TaskID: task.ID, Event: agent.Event{Type: agent.EventText, Text: "twenty bytes of text"}}
			if i%20 == 19 { // now and then there is a tool
				e.Event = agent.Event{Type: agent.EventToolEnd, Tool: "Bash", ToolID: "toolu_01A2b3C4d5E6f7G8h9", Result: strings.Repeat("a line of what it said\n", 20)}
			}
			if err := l.Append(task.SessionID, e); err != nil {
				b.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(events/time.Since(began).Seconds(), "events/s")
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(info.Size())/events*1000, "B/1000-events")
	}
}
