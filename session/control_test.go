package session_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"claude-runner/agent"
	"claude-runner/session"
)

func TestAbort(t *testing.T) {
	w := newWorld(t, nil)
	first := w.submit("s", `setsid sleep 1000 & echo $! > pid; `+hold)
	w.started("s")
	queued := []session.Task{w.submit("s", "echo 1"), w.submit("s", "echo 2")}
	other := w.submit("other", hold)
	w.started("other")

	aborted, err := w.Abort(t.Context(), "s")
	if err != nil || len(aborted) != 3 || aborted[0] != first.ID || aborted[1] != queued[0].ID {
		t.Errorf("Abort: %v, %v", aborted, err)
	}
	for _, task := range append(queued, first) {
		if got := w.wait(task); got.State != session.TaskAborted || got.Result.Error.Code != session.CodeAborted {
			t.Errorf("task %q is %s", task.Request.Message, got.State)
		}
	}
	if got := w.run("s", `kill -0 $(cat pid) 2>/dev/null || echo gone`); got != "gone" {
		t.Errorf("a process of the aborted task: %q", got)
	}
	w.letGo("other")
	if got := w.wait(other); got.State != session.TaskSucceeded {
		t.Errorf("another session's task is %s", got.State)
	}
	if aborted, err := w.Abort(t.Context(), "s"); err != nil || len(aborted) != 0 {
		t.Errorf("Abort with nothing to abort: %v, %v", aborted, err)
	}
	if _, err := w.Abort(t.Context(), "nobody"); session.CodeOf(err) != session.CodeNoSession {
		t.Errorf("Abort of no session: %v", err)
	}
}

func TestCancelTask(t *testing.T) {
	w := newWorld(t, nil)
	running := w.submit("s", hold)
	w.started("s")
	queued, last := w.submit("s", "echo 1"), w.submit("s", "echo 2")
	for _, task := range []session.Task{queued, running} {
		if got, err := w.CancelTask(t.Context(), task.ID); err != nil || got.State != session.TaskAborted {
			t.Errorf("CancelTask: %s, %v", got.State, err)
		}
	}
	if got := w.wait(last); got.State != session.TaskSucceeded {
		t.Errorf("the task behind is %s", got.State)
	}
	if _, err := w.CancelTask(t.Context(), last.ID); session.CodeOf(err) != session.CodeTaskEnded {
		t.Errorf("CancelTask of an ended task: %v", err)
	}
	if _, err := w.CancelTask(t.Context(), "none"); session.CodeOf(err) != session.CodeNoTask {
		t.Errorf("CancelTask of no task: %v", err)
	}
}

func TestReset(t *testing.T) {
	w := newWorld(t, nil)
	w.run("s", "echo x > file; mkdir -p deep/er; chmod 0 deep; echo y > $HOME/memory")
	running := w.submit("s", "echo z > late; "+hold)
	w.started("s")
	queued := w.submit("s", "echo")
	if err := w.Reset(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	for _, task := range []session.Task{running, queued} {
		if got := w.wait(task); got.State != session.TaskAborted {
			t.Errorf("a task of before is %s", got.State)
		}
	}
	if got := w.run("s", `ls; ls -A $HOME; [ -z "$RESUME" ] && echo new`); got != "AGENTS.md\ndata\ntools\nnew" {
		t.Errorf("after the reset: %q", got)
	}
	if s, err := w.Session(t.Context(), "s"); err != nil || s.Turns != 1 || s.CostUSD != 1.5 {
		t.Errorf("session after the reset: %+v, %v", s, err)
	}
}

func TestDelete(t *testing.T) {
	w := newWorld(t, nil)
	w.run("s", "echo x > file")
	w.submit("s", hold)
	w.started("s")
	c, err := w.Events().Read(t.Context(), "s", session.Live)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := w.Delete(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := c.Next(t.Context()); err != nil {
			if !errors.Is(err, session.ErrNotFound) {
				t.Errorf("a reader ended with %v", err)
			}
			break
		}
	}
	if _, err := w.Session(t.Context(), "s"); session.CodeOf(err) != session.CodeNoSession {
		t.Errorf("a deleted session: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(w.path("s", ""))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its folder: %v", err)
	}
	if got := w.run("s", "ls"); got != "AGENTS.md\ndata\ntools" {
		t.Errorf("a new session of the same name has %q", got)
	}
	if err := w.Delete(t.Context(), "nobody"); session.CodeOf(err) != session.CodeNoSession {
		t.Errorf("Delete of no session: %v", err)
	}
}

// Everything at once, at moments that nobody chose: each task ends once, and
// what is left is a session that works.
func TestControlAtAnyMoment(t *testing.T) {
	w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.IdleTimeout = 50 * time.Millisecond })
	operations := map[string]func(context.Context, string) error{
		"abort":  func(ctx context.Context, id string) error { _, err := w.Abort(ctx, id); return err },
		"reset":  w.Reset,
		"delete": w.Delete,
	}
	for name, operate := range operations {
		t.Run(name, func(t *testing.T) {
			var g sync.WaitGroup
			for i := range 12 {
				id := fmt.Sprintf("%s-%d", name, i)
				g.Go(func() {
					task := w.submit(id, "echo $$; sleep 0.05")
					second := w.submit(id, "echo")
					time.Sleep(time.Duration(i) * 8 * time.Millisecond) // spread over start, run and end; any moment is right
					if err := operate(context.Background(), id); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					for _, task := range []session.Task{task, second} {
						got, err := w.Wait(context.Background(), task.ID)
						if name == "delete" && session.CodeOf(err) == session.CodeNoTask {
							continue
						}
						if err != nil || !got.State.Ended() {
							t.Errorf("task after %s: %s, %v", name, got.State, err)
						}
					}
					if got := w.run(id, "echo works"); got != "works" {
						t.Errorf("after %s: %q", name, got)
					}
				})
			}
			g.Wait()
		})
	}
}

func TestAgentStays(t *testing.T) {
	w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.IdleTimeout = time.Minute })
	first := w.run("s", "echo $$")
	if again := w.run("s", "echo $$"); again != first {
		t.Errorf("the second task's agent is %s, the first one's %s", again, first)
	}
	task, err := w.Submit(t.Context(), session.Submission{SessionID: "s", Request: session.Request{Message: "echo $X $$", Env: map[string]string{"X": "new"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := w.wait(task).Result.Text; !strings.HasPrefix(got, "new ") || strings.HasSuffix(got, " "+first) {
		t.Errorf("a task with its own environment said %q", got)
	}
	if got := w.wait(w.submit("s", "exit 0")); got.State != session.TaskFailed {
		t.Errorf("a task whose agent ended is %s", got.State)
	}
	w.run("s", "echo works")
}

func TestAgentThatStaysEndsWhenIdle(t *testing.T) {
	w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.IdleTimeout = 20 * time.Millisecond })
	w.run("s", "echo")
	b, _ := w.opts.Backends.Backend("local")
	eventually(t, "its sandbox is gone", func() bool {
		handles, err := b.List(t.Context())
		return err == nil && len(handles) == 0
	})
}
