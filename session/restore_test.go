package session_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"claude-runner/agent"
	"claude-runner/agent/gateway"
	"claude-runner/session"
)

// leave opens a manager, lets a task run in session "s", and closes the manager
// as a runner that is replaced does: the task's agent goes on.
func leave(t *testing.T, dir string, change func(*session.Options, *agent.Profile)) session.Task {
	t.Helper()
	w := openWorld(t, dir, change)
	task := w.submit("s", "echo before; "+hold+"; echo after")
	w.started("s")
	eventually(t, "its first words are told", func() bool { return strings.Contains(w.told("s"), `"before"`) })
	w.close()
	return task
}

// told returns the events of a session, a line each.
func (w *world) told(id string) string {
	w.t.Helper()
	records, err := w.EventsAfter(context.Background(), id, 0, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range records {
		b.Write(append(r.Data, '\n'))
	}
	return b.String()
}

// sandboxes returns how many sandboxes there are.
func (w *world) sandboxes() int {
	w.t.Helper()
	b, _ := w.opts.Backends.Backend("local")
	handles, err := b.List(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return len(handles)
}

func TestTakeOverTellsEachEventOnce(t *testing.T) {
	dir := sharedDir(t)
	task := leave(t, dir, nil)
	w := openWorld(t, dir, nil)
	w.letGo("s")
	if got := w.wait(task); got.State != session.TaskSucceeded || got.Result.Text != "before\nafter" || got.Result.CostUSD != 0.5 {
		t.Errorf("%s %q, %v dollars: %+v", got.State, got.Result.Text, got.Result.CostUSD, got.Result.Error)
	}
	told := w.told("s")
	for _, once := range []string{`"before"`, `"after"`, "task_queued", "task_start", "task_complete", `"init"`} {
		if n := strings.Count(told, once); n != 1 {
			t.Errorf("%s is told %d times:\n%s", once, n, told)
		}
	}
	eventually(t, "its sandbox is gone", func() bool { return w.sandboxes() == 0 })
	if got := w.run("s", "echo works"); got != "works" {
		t.Errorf("afterwards: %q", got)
	}
}

func TestTakeOverOfWhatIsAborted(t *testing.T) {
	dir := sharedDir(t)
	task := leave(t, dir, nil)
	w := openWorld(t, dir, nil)
	if _, err := w.Abort(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if got := w.wait(task); got.State != session.TaskAborted {
		t.Errorf("%s: %+v", got.State, got.Result.Error)
	}
	eventually(t, "its sandbox is gone", func() bool { return w.sandboxes() == 0 })
}

func TestTakeOverAfterItsTime(t *testing.T) {
	dir := sharedDir(t)
	task := leave(t, dir, nil)
	w := openWorld(t, dir, func(_ *session.Options, p *agent.Profile) { p.Timeout = time.Millisecond })
	if got := w.wait(task); got.State != session.TaskTimedOut {
		t.Errorf("%s: %+v", got.State, got.Result.Error)
	}
	eventually(t, "its sandbox is gone", func() bool { return w.sandboxes() == 0 })
}

func TestTakeOverOfAnAgentThatIsNoMore(t *testing.T) {
	dir := sharedDir(t)
	task := leave(t, dir, nil)
	w := openWorld(t, dir, func(o *session.Options, _ *agent.Profile) { o.Profiles.Default = "other" })
	if got := w.wait(task); got.State != session.TaskFailed || got.Result.Error.Code != session.CodeNoAgent {
		t.Errorf("%s: %+v", got.State, got.Result.Error)
	}
	eventually(t, "its sandbox is gone", func() bool { return w.sandboxes() == 0 })
}

// end ends the sandbox that a closed manager left, as a restart of the host
// would.
func end(t *testing.T, dir string) {
	t.Helper()
	w := newRegistry(t, dir)
	b, _ := w.Backend("local")
	handles, err := b.List(t.Context())
	if err != nil || len(handles) != 1 {
		t.Fatalf("%d sandboxes, %v", len(handles), err)
	}
	s, err := b.Recover(t.Context(), handles[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// spending is a gateway through which every task has spent the same.
type spending struct{ *gateway.Gateway }

func (spending) Totals(context.Context, string) (agent.Totals, error) {
	return agent.Totals{Calls: 1, CostUSD: 0.25}, nil
}

func TestInterrupted(t *testing.T) {
	t.Run("has failed", func(t *testing.T) {
		dir := sharedDir(t)
		g := spending{gateway.New(gateway.Options{})}
		through := func(o *session.Options, _ *agent.Profile) { o.Gateway, o.Helper = g, noHelper }
		leases := func() int {
			open, err := g.Leases(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return len(open)
		}
		task := leave(t, dir, through)
		end(t, dir)
		if n := leases(); n != 1 {
			t.Errorf("%d leases of a sandbox that the manager left", n)
		}
		w := openWorld(t, dir, through)
		if got := w.wait(task); got.State != session.TaskFailed || got.Result.Error.Code != session.CodeInterrupted || got.Result.CostUSD != 0.25 {
			t.Errorf("%s, %v dollars: %+v", got.State, got.Result.CostUSD, got.Result.Error)
		}
		eventually(t, "its sandbox's lease is closed", func() bool { return leases() == 0 })
	})
	t.Run("runs again where its profile says so", func(t *testing.T) {
		dir := sharedDir(t)
		again := func(_ *session.Options, p *agent.Profile) { p.RetryInterrupted = true }
		task := leave(t, dir, again)
		end(t, dir)
		w := openWorld(t, dir, again)
		w.letGo("s")
		if got := w.wait(task); got.State != session.TaskSucceeded || got.Result.Text != "before\nafter" {
			t.Errorf("%s %q: %+v", got.State, got.Result.Text, got.Result.Error)
		}
		told := w.told("s")
		if strings.Count(told, `"before"`) != 2 || strings.Count(told, `"after"`) != 1 || strings.Count(told, "task_complete") != 1 {
			t.Errorf("told:\n%s", told)
		}
	})
}

func TestIdempotencyKeyOverARestart(t *testing.T) {
	dir := sharedDir(t)
	submission := session.Submission{SessionID: "s", Key: "k", Request: session.Request{Message: "echo x >> runs; cat runs"}}
	first := openWorld(t, dir, nil)
	one, err := first.Submit(t.Context(), submission)
	if err != nil {
		t.Fatal(err)
	}
	first.wait(one)
	first.close()
	second := openWorld(t, dir, nil)
	two, err := second.Submit(t.Context(), submission)
	if err != nil || two.ID != one.ID || two.Result.Text != "x" {
		t.Errorf("the same key gave task %s with %q, %v; want %s", two.ID, two.Result.Text, err, one.ID)
	}
}

// A secret whose first half an earlier process read is masked all the same, and
// all else is told once.
func TestTakeOverInTheMiddleOfASecret(t *testing.T) {
	dir := sharedDir(t)
	secret := func(_ *session.Options, p *agent.Profile) {
		p.Secrets = map[string]agent.Secret{"TOKEN": "hunter2-hunter2"}
	}
	w := openWorld(t, dir, secret)
	task := w.submit("s", "echo 'it is hunter2-'; "+hold+"; echo 'hunter2, says it: hunt'")
	w.started("s")
	eventually(t, "its first words are told", func() bool { return strings.Contains(w.told("s"), `"it is "`) })
	w.close()

	w = openWorld(t, dir, secret)
	w.letGo("s")
	if got := w.wait(task); got.State != session.TaskSucceeded {
		t.Errorf("%s: %+v", got.State, got.Result.Error)
	}
	told := w.told("s")
	for _, once := range []string{`"text":"it is "`, `"text":"[secret], says it: "`, `"text":"hunt"`, `"init"`} {
		if n := strings.Count(told, once); n != 1 {
			t.Errorf("%s is told %d times:\n%s", once, n, told)
		}
	}
}
