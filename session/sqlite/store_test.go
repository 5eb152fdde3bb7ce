package sqlite_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"claude-runner/agent"
	"claude-runner/session"
	"claude-runner/session/sqlite"
)

func TestMain(m *testing.M) {
	// database/sql's own goroutine ends a moment after Close.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newStore(t testing.TB) *sqlite.Store {
	return open(t, filepath.Join(t.TempDir(), "odd name ?&%", "runner.db"))
}

var day = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

func aSession(id string) session.Session {
	return session.Session{ID: id, Agent: "support", CreatedAt: day, UpdatedAt: day}
}

func aTask(id, sessionID string) session.Task {
	return session.Task{
		ID: id, SessionID: sessionID, Agent: "support", State: session.TaskQueued, CreatedAt: day,
		Request: session.Request{Message: "hello\n\"ж\"", Context: "web", Env: map[string]string{"TOKEN": "s3cret-value"}},
	}
}

func create(t testing.TB, s *sqlite.Store, id, sessionID string) session.Task {
	t.Helper()
	task := aTask(id, sessionID)
	must(t, s, session.Change{Create: &session.Creation{Session: aSession(sessionID), Task: task}})
	return task
}

func must(t testing.TB, s *sqlite.Store, changes ...session.Change) {
	t.Helper()
	if err := s.Apply(t.Context(), changes); err != nil {
		t.Fatal(err)
	}
}

func TestTaskLife(t *testing.T) {
	s := newStore(t)
	task := create(t, s, "t1", "s1")
	got, err := s.Task(t.Context(), "t1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(task, got); diff != "" {
		t.Errorf("a new task reads back otherwise (-wrote +read):\n%s", diff)
	}

	task.State, task.Backend, task.StartedAt = session.TaskRunning, "docker", day.Add(time.Second)
	task.TurnFrom = 77
	must(t, s, session.Change{Update: &task})
	task.State, task.EndedAt = session.TaskSucceeded, day.Add(time.Minute)
	task.Result = session.Result{
		Output: json.RawMessage(`{"action":"resolve"}`), Text: "done", Tools: []string{"Bash"}, CostUSD: 0.034, Duration: 20 * time.Second,
		Usage: agent.Usage{InputTokens: 7}, Error: &session.Failure{Code: "x", Message: "y"},
	}
	must(t, s, session.Change{End: &session.Ending{Task: task, AgentID: "abc", Turns: 1}})
	ended := aSession("s1")
	ended.Turns, ended.AgentID, ended.CostUSD, ended.UpdatedAt = 1, "abc", 0.034, task.EndedAt
	if got, err = s.Task(t.Context(), "t1"); err != nil {
		t.Fatal(err)
	}
	task.Request.Env = nil // forgotten at the end
	if diff := cmp.Diff(task, got); diff != "" {
		t.Errorf("an ended task reads back otherwise (-wrote +read):\n%s", diff)
	}
	gotSession, err := s.Session(t.Context(), "s1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ended, gotSession); diff != "" {
		t.Errorf("session after a task's end (-wrote +read):\n%s", diff)
	}

	t.Run("an end is written once", func(t *testing.T) {
		again := task
		again.State = session.TaskAborted
		for _, c := range []session.Change{{End: &session.Ending{Task: again, Turns: 1}}, {Update: &again}} {
			other := aTask("t2", "s2")
			err := s.Apply(t.Context(), []session.Change{{Create: &session.Creation{Session: aSession("s2"), Task: other}}, c})
			bad, ok := errors.AsType[*session.ChangeError](err)
			if !ok || bad.Index != 1 || !errors.Is(err, session.ErrEnded) {
				t.Errorf("a change behind the end: %v, want ErrEnded of change 1", err)
			}
			if _, err := s.Task(t.Context(), "t2"); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("the change beside it was made: %v", err)
			}
		}
		if got, _ := s.Task(t.Context(), "t1"); got.State != session.TaskSucceeded {
			t.Errorf("state became %s", got.State)
		}
	})
}

func TestNotFound(t *testing.T) {
	s := newStore(t)
	if _, err := s.Task(t.Context(), "none"); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("Task: %v, want ErrNotFound", err)
	}
	if _, err := s.Session(t.Context(), "none"); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("Session: %v, want ErrNotFound", err)
	}
	if seq, err := s.LastSeq(t.Context(), "none"); err != nil || seq != 0 {
		t.Errorf("LastSeq: %d, %v", seq, err)
	}
}

func TestTasksPages(t *testing.T) {
	s := newStore(t)
	for i := range 25 {
		create(t, s, fmt.Sprintf("t%02d", i), fmt.Sprintf("s%d", i%2))
	}
	var got []string
	f := session.TaskFilter{SessionID: "s1", State: session.TaskQueued, Agent: "support", Limit: 5}
	for pages := 0; ; pages++ {
		page, next, err := s.Tasks(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range page {
			got = append(got, task.ID)
		}
		if next == "" {
			break
		}
		if f.Cursor = next; pages > 10 {
			t.Fatal("the pages have no end")
		}
	}
	if want := "t23 t21 t19 t17 t15 t13 t11 t09 t07 t05 t03 t01"; strings.Join(got, " ") != want {
		t.Errorf("pages held %v, want %s", got, want)
	}
	if _, _, err := s.Tasks(t.Context(), session.TaskFilter{Cursor: "x' OR 1"}); session.CodeOf(err) != session.CodeInvalid {
		t.Errorf("a forged cursor gave %v", err)
	}
}

func TestUnfinishedKeepsOrderAndEnv(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	s := open(t, path)
	for _, id := range []string{"c", "a", "b"} {
		create(t, s, id, "s1")
	}
	done := aTask("a", "s1")
	done.State, done.EndedAt = session.TaskFailed, day
	must(t, s, session.Change{End: &session.Ending{Task: done}})
	again := open(t, path) // as the next process sees it
	tasks, err := again.Unfinished(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(tasks) != 2 || tasks[0].ID != "c" || tasks[1].ID != "b" || tasks[1].Request.Env["TOKEN"] != "s3cret-value" {
		t.Errorf("unfinished: %+v", tasks)
	}
}

func TestDeleteSessionRemovesAllOfIt(t *testing.T) {
	s := newStore(t)
	create(t, s, "t1", "s1")
	create(t, s, "t2", "s2")
	event := func(id string, seq int64) session.Change {
		return session.Change{Events: []session.Record{{SessionID: id, Seq: seq, Time: day, Data: []byte(`{}`)}}}
	}
	must(t, s, event("s1", 1), event("s2", 1))
	if err := s.DeleteSession(t.Context(), "s1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Task(t.Context(), "t1"); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("task of a deleted session: %v", err)
	}
	if events, err := s.Events(t.Context(), "s1", 0, 10); err != nil || len(events) != 0 {
		t.Errorf("events of a deleted session: %v, %v", events, err)
	}
	if events, err := s.Events(t.Context(), "s2", 0, 10); err != nil || len(events) != 1 {
		t.Errorf("events of the other session: %v, %v", events, err)
	}
	// What comes late for it does not spoil a batch.
	must(t, s, event("s1", 2), event("s2", 2))
	if seq, err := s.LastSeq(t.Context(), "s2"); err != nil || seq != 2 {
		t.Errorf("LastSeq of the other session: %d, %v", seq, err)
	}
}

func TestInstanceIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	s := open(t, path)
	first, err := s.Instance(t.Context())
	if err != nil || first == "" {
		t.Fatalf("Instance: %q, %v", first, err)
	}
	if again, err := open(t, path).Instance(t.Context()); err != nil || again != first {
		t.Errorf("Instance of the next process: %q, %v; want %q", again, err, first)
	}
}

func TestFileIsItsOwnersAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	create(t, open(t, path), "t1", "s1")
	for _, p := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600: waiting tasks' secrets are in it", filepath.Base(p), info.Mode().Perm())
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("this is no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(context.Background(), path)
	if err == nil {
		s.Close()
		t.Fatal("a file that is no database was opened")
	}
	if !strings.Contains(err.Error(), path) {
		t.Errorf("the error does not name the file: %v", err)
	}
}

func TestKeys(t *testing.T) {
	s := newStore(t)
	with := func(task, key string, at time.Time) []session.Change {
		return []session.Change{{Create: &session.Creation{
			Session: aSession("s"), Task: aTask(task, "s"), Key: &session.Key{Name: key, Hash: "h", TaskID: task, At: at},
		}}}
	}
	must(t, s, with("t1", "k", day)...)
	if err := s.Apply(t.Context(), with("t2", "k", day.Add(time.Hour))); !errors.Is(err, session.ErrKeyTaken) {
		t.Errorf("a key that is taken: %v", err)
	}
	if k, err := s.Key(t.Context(), "", "k"); err != nil || k.TaskID != "t1" || k.Hash != "h" || !k.At.Equal(day) {
		t.Errorf("Key: %+v, %v", k, err)
	}
	must(t, s, with("t3", "k", day.Add(session.KeyLife+time.Second))...) // its time is over
	if _, err := s.Key(t.Context(), "", "other"); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("an unknown key: %v", err)
	}
}

func TestUsage(t *testing.T) {
	s := newStore(t)
	for i := range 6 {
		task := create(t, s, fmt.Sprint("t", i), fmt.Sprint("s", i%2))
		task.State, task.EndedAt = session.TaskSucceeded, day.Add(time.Duration(i)*12*time.Hour)
		task.Result = session.Result{CostUSD: 0.25, Duration: time.Second, Model: "m", Usage: agent.Usage{InputTokens: 10, OutputTokens: 1}}
		must(t, s, session.Change{End: &session.Ending{Task: task}})
	}
	if err := s.DeleteSession(t.Context(), "s1"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Usage(t.Context(), session.UsageQuery{GroupBy: session.BySession})
	if err != nil {
		t.Fatal(err)
	}
	want := []session.UsageSum{
		{Group: "s0", Tasks: 3, CostUSD: 0.75, Duration: 3 * time.Second, Usage: agent.Usage{InputTokens: 30, OutputTokens: 3}},
		{Group: "s1", Tasks: 3, CostUSD: 0.75, Duration: 3 * time.Second, Usage: agent.Usage{InputTokens: 30, OutputTokens: 3}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("usage by session, one of them deleted (-want +got):\n%s", diff)
	}
	got, err = s.Usage(t.Context(), session.UsageQuery{GroupBy: session.ByDay, From: day, To: day.Add(48 * time.Hour)})
	if err != nil || len(got) != 3 || got[0].Group != "2026-03-01" || got[0].Tasks != 1 || got[1].Tasks != 2 || got[2].Tasks != 1 {
		t.Errorf("usage by day: %+v, %v", got, err)
	}
	for _, g := range session.UsageGroups {
		if _, err := s.Usage(t.Context(), session.UsageQuery{GroupBy: g}); err != nil {
			t.Errorf("usage by %s: %v", g, err)
		}
	}
	if _, err := s.Usage(t.Context(), session.UsageQuery{GroupBy: "x; DROP"}); err == nil {
		t.Error("usage by nonsense gave no error")
	}
}

func TestPruneEvents(t *testing.T) {
	s := newStore(t)
	done, open := create(t, s, "done", "s1"), create(t, s, "open", "s2")
	var events []session.Record
	for i := range int64(2500) {
		events = append(events, session.Record{SessionID: "s1", Seq: i + 1, TaskID: "done", Time: day.Add(time.Duration(i) * time.Second), Data: []byte(`{}`)})
	}
	must(t, s, session.Change{Events: events},
		session.Change{Events: []session.Record{{SessionID: "s2", Seq: 1, TaskID: open.ID, Time: day, Data: []byte(`{}`)}}})
	done.State, done.EndedAt = session.TaskSucceeded, day
	must(t, s, session.Change{End: &session.Ending{Task: done}})

	n, err := s.PruneEvents(t.Context(), day.Add(2000*time.Second), 400)
	if err != nil || n != 2100 {
		t.Errorf("PruneEvents removed %d, %v; want 2000 by age and 100 beyond the newest 400", n, err)
	}
	if left, err := s.Events(t.Context(), "s1", 0, 10); err != nil || len(left) != 10 || left[0].Seq != 2101 {
		t.Errorf("what is left begins with %+v, %v", left, err)
	}
	if left, err := s.Events(t.Context(), "s2", 0, 10); err != nil || len(left) != 1 {
		t.Errorf("events of a task that has not ended: %+v, %v", left, err)
	}
	if seq, err := s.LastSeq(t.Context(), "s1"); err != nil || seq != 2500 {
		t.Errorf("LastSeq: %d, %v", seq, err)
	}
}
