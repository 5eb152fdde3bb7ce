package session_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"claude-runner/agent"
	"claude-runner/session"
)

func TestTaskSeesItsTemplateAndRemembers(t *testing.T) {
	w := newWorld(t, nil)
	if got := w.run("user-1", `tools/hello.sh; ls -d data; echo "$BASE"; echo secret > $HOME/memory; id -u`); got != "hello\ndata\nhttp://localhost:9/x\n"+uid() {
		t.Errorf("first task said %q", got)
	}
	if got := w.run("user-1", `cat $HOME/memory; [ -n "$RESUME" ] && echo resumed`); got != "secret\nresumed" {
		t.Errorf("second task said %q", got)
	}
	if got := w.run("user-2", `ls $HOME; [ -z "$RESUME" ] && echo new`); got != "new" {
		t.Errorf("another session said %q", got)
	}
	s, err := w.Session(t.Context(), "user-1")
	if err != nil || s.Turns != 2 || s.CostUSD != 1 || s.Agent != "shell" {
		t.Errorf("session: %+v, %v", s, err)
	}
}

func uid() string {
	if os.Geteuid() == 0 {
		return "10001"
	}
	return fmt.Sprint(os.Geteuid())
}

func TestOneAtATimeInOrder(t *testing.T) {
	w := newWorld(t, nil)
	first := w.submit("s", hold)
	w.started("s")
	var tasks []session.Task
	for i := range 5 {
		tasks = append(tasks, w.submit("s", fmt.Sprintf("echo %d >> order", i)))
	}
	st, err := w.Session(t.Context(), "s")
	if err != nil || !st.Busy || st.Queued != 5 || st.Current != first.ID {
		t.Errorf("session at work: %+v, %v", st, err)
	}
	w.letGo("s")
	for _, task := range tasks {
		w.wait(task)
	}
	if got := w.run("s", "cat order"); got != "0\n1\n2\n3\n4" {
		t.Errorf("tasks ran in the order %q", got)
	}
}

func TestLimits(t *testing.T) {
	t.Run("sessions run side by side up to the limit", func(t *testing.T) {
		w := newWorld(t, func(o *session.Options, _ *agent.Profile) { o.Concurrency = 2 })
		a, b, c := w.submit("a", hold), w.submit("b", hold), w.submit("c", "echo c")
		w.started("a")
		w.started("b")
		if got, err := w.Task(t.Context(), c.ID); err != nil || got.State != session.TaskQueued {
			t.Errorf("a third task is %s, %v", got.State, err)
		}
		w.letGo("a")
		w.wait(c)
		w.letGo("b")
		w.wait(a)
		w.wait(b)
	})
	t.Run("of one agent", func(t *testing.T) {
		w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.Concurrency = 1 })
		a, b := w.submit("a", hold), w.submit("b", "echo b")
		w.started("a")
		other, err := w.Submit(t.Context(), session.Submission{SessionID: "c", Agent: "other", Request: session.Request{Message: "echo c"}})
		if err != nil {
			t.Fatal(err)
		}
		w.wait(other) // another agent's task passes
		if got, err := w.Task(t.Context(), b.ID); err != nil || got.State != session.TaskQueued {
			t.Errorf("a second task of the agent is %s, %v", got.State, err)
		}
		w.letGo("a")
		w.wait(a)
		w.wait(b)
	})
	t.Run("the queue's bound holds for many at once", func(t *testing.T) {
		w := newWorld(t, func(o *session.Options, _ *agent.Profile) { o.QueueDepth = 3 })
		w.submit("s", hold)
		w.started("s")
		var g sync.WaitGroup
		errs := make(chan error, 20)
		for range 20 {
			g.Go(func() {
				_, err := w.Submit(context.Background(), session.Submission{SessionID: "s", Request: session.Request{Message: "echo"}})
				errs <- err
			})
		}
		g.Wait()
		close(errs)
		accepted := 0
		for err := range errs {
			e, ok := errors.AsType[*session.Error](err)
			switch {
			case err == nil:
				accepted++
			case !ok || e.Code != session.CodeQueueFull || e.RetryAfter <= 0:
				t.Errorf("refused with %v", err)
			}
		}
		if accepted != 3 {
			t.Errorf("%d tasks wait, want 3", accepted)
		}
	})
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, nil)
	w.run("mine", "echo")
	tests := []struct {
		name  string
		sub   session.Submission
		code  session.Code
		field string
	}{
		{"no id", session.Submission{Request: session.Request{Message: "x"}}, session.CodeInvalid, "sessionId"},
		{"an id that leaves its folder", session.Submission{SessionID: "../x", Request: session.Request{Message: "x"}}, session.CodeInvalid, "sessionId"},
		{"a long id", session.Submission{SessionID: strings.Repeat("a", 129), Request: session.Request{Message: "x"}}, session.CodeInvalid, "sessionId"},
		{"no message", session.Submission{SessionID: "s", Request: session.Request{Message: " \n"}}, session.CodeInvalid, "message"},
		{"the runner's credentials", session.Submission{SessionID: "s", Request: session.Request{Message: "x", Env: map[string]string{"ANTHROPIC_BASE_URL": "http://evil"}}}, session.CodeInvalid, "env.ANTHROPIC_BASE_URL"},
		{"a variable's name", session.Submission{SessionID: "s", Request: session.Request{Message: "x", Env: map[string]string{"A=B": "c"}}}, session.CodeInvalid, "env"},
		{"an unknown agent", session.Submission{SessionID: "s", Agent: "nobody", Request: session.Request{Message: "x"}}, session.CodeNoAgent, "agent"},
		{"another agent's session", session.Submission{SessionID: "mine", Agent: "other", Request: session.Request{Message: "x"}}, session.CodeAgentFixed, "agent"},
		{"a backend that the agent has not", session.Submission{SessionID: "s", Request: session.Request{Message: "x", Backend: "broken"}}, session.CodeNoBackendNamed, "backend"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := w.Submit(t.Context(), tt.sub)
			e, ok := errors.AsType[*session.Error](err)
			if !ok || e.Code != tt.code || e.Field != tt.field {
				t.Errorf("Submit: %#v", err)
			}
		})
	}
	if sessions, _, err := w.Sessions(t.Context(), session.Page{}); err != nil || len(sessions) != 1 {
		t.Errorf("refused tasks left sessions: %+v, %v", sessions, err)
	}
	t.Run("no credentials", func(t *testing.T) {
		w := newWorld(t, func(o *session.Options, _ *agent.Profile) {
			o.ModelAPIs = func() ([]agent.ModelAPI, error) { return nil, errors.New("set a key") }
		})
		_, err := w.Submit(t.Context(), session.Submission{SessionID: "s", Request: session.Request{Message: "x"}})
		if session.CodeOf(err) != session.CodeNoCredentials || err.Error() != "set a key" {
			t.Errorf("Submit: %v", err)
		}
	})
}

func TestFailures(t *testing.T) {
	w := newWorld(t, func(_ *session.Options, p *agent.Profile) {
		p.Secrets = map[string]agent.Secret{"TOKEN": "hunter2-hunter2"}
	})
	tests := []struct {
		name, message string
		code          session.Code
		says          string
	}{
		{"the agent ends by itself", `echo "broken $TOKEN" >&2; exit 3`, session.Code(agent.CodeAgentExited), "exit code 3 before its answer; its standard error ends: broken [secret]"},
		{"the agent is killed", `kill -9 $$`, session.CodeSandboxKilled, "signal 9"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id := fmt.Sprint("s", i)
			got := w.wait(w.submit(id, tt.message))
			f := got.Result.Error
			if got.State != session.TaskFailed || f == nil || f.Code != tt.code || !strings.Contains(f.Message, tt.says) {
				t.Errorf("%s %+v", got.State, f)
			}
			if got.Result.CostUSD != 0.5 {
				t.Errorf("what it cost was lost: %v", got.Result.CostUSD)
			}
			w.run(id, "echo the session goes on")
		})
	}
}

func TestTimeout(t *testing.T) {
	w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.Timeout = 300 * time.Millisecond })
	got := w.wait(w.submit("s", "setsid sleep 1000"))
	if got.State != session.TaskTimedOut || got.Result.Error.Code != session.CodeTimedOut {
		t.Errorf("%s %+v", got.State, got.Result.Error)
	}
}

func TestBackends(t *testing.T) {
	t.Run("the first that can runs the task", func(t *testing.T) {
		w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.Backend = []string{"broken", "local"} })
		got := w.wait(w.submit("s", "echo"))
		if got.State != session.TaskSucceeded || got.Backend != "local" {
			t.Errorf("%s on %s: %+v", got.State, got.Backend, got.Result.Error)
		}
	})
	t.Run("none can", func(t *testing.T) {
		w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.Backend = []string{"broken"} })
		got := w.wait(w.submit("s", "echo"))
		if f := got.Result.Error; f == nil || f.Code != session.CodeNoBackend || !strings.Contains(f.Message, "broken: ") {
			t.Errorf("%s %+v", got.State, got.Result.Error)
		}
		states := w.Backends(t.Context())
		if len(states) != 2 || states[0].Healthy || states[0].Error == "" || !states[1].Healthy {
			t.Errorf("Backends: %+v", states)
		}
	})
}

func TestLimitsThatAreNotHeldAreSaid(t *testing.T) {
	w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.Limits.Memory = 1 << 30 })
	got := w.wait(w.submit("s", "echo"))
	if len(got.Result.Warnings) != 1 || !strings.Contains(got.Result.Warnings[0], "memory") {
		t.Errorf("warnings: %q", got.Result.Warnings)
	}
}

func TestRestart(t *testing.T) {
	dir := sharedDir(t)
	first := openWorld(t, dir, nil)
	first.run("old", "echo kept > $HOME/memory")
	running, queued := first.submit("s", "echo before; "+hold+"; echo after"), first.submit("s", "echo queued")
	first.started("s")
	waited := make(chan error, 1)
	go func() {
		_, err := first.Wait(context.Background(), queued.ID)
		waited <- err
	}()
	eventually(t, "somebody waits", func() bool {
		st, err := first.Session(t.Context(), "s")
		return err == nil && st.Queued == 1
	})
	first.close()
	if err := <-waited; session.CodeOf(err) != session.CodeShuttingDown {
		t.Errorf("who waited for a queued task was told %v", err)
	}

	second := openWorld(t, dir, nil)
	if got, err := second.Task(t.Context(), running.ID); err != nil || got.State != session.TaskRunning {
		t.Errorf("the task that ran is %s, %v", got.State, err)
	}
	second.letGo("s")
	if got := second.wait(running); got.State != session.TaskSucceeded || got.Result.Text != "before\nafter" {
		t.Errorf("the task that ran: %s %q %+v", got.State, got.Result.Text, got.Result.Error)
	}
	if got := second.wait(queued); got.State != session.TaskSucceeded || got.Result.Text != "queued" {
		t.Errorf("the task that waited: %s %+v", got.State, got.Result.Error)
	}
	if got := second.run("old", "cat $HOME/memory"); got != "kept" {
		t.Errorf("an old session said %q", got)
	}
}
