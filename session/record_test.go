package session_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/backends"
	"claude-runner/session"
)

// noted is a store that notes what of tasks is written, and fails on demand.
type noted struct {
	session.Store
	mu     sync.Mutex
	writes []string
	err    error // of what creates a task
}

func (n *noted) Apply(ctx context.Context, changes []session.Change) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var writes []string
	for _, c := range changes {
		switch {
		case c.Create != nil && n.err != nil:
			return n.err
		case c.Create != nil:
			writes = append(writes, "create "+string(c.Create.Task.State))
		case c.Update != nil:
			writes = append(writes, "update "+string(c.Update.State))
		case c.End != nil:
			writes = append(writes, "end "+string(c.End.Task.State))
		}
	}
	err := n.Store.Apply(ctx, changes)
	if err == nil {
		n.writes = append(n.writes, writes...)
	}
	return err
}

// fail has what creates a task fail from now on, and returns what was written.
func (n *noted) fail(err error) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	writes := n.writes
	n.writes, n.err = nil, err
	return writes
}

// runHot is run, after which the session's agent waits.
func (w *world) runHot(sessionID, message string) string {
	w.t.Helper()
	said := w.run(sessionID, message)
	eventually(w.t, "the task's place is free", func() bool { return w.Load().Running == 0 })
	return said
}

// hotWorld keeps agents, and notes what is written.
func hotWorld(t *testing.T, change func(*session.Options, *agent.Profile)) (*world, *noted, *witness) {
	t.Helper()
	n, o := &noted{}, &witness{}
	return newWorld(t, func(opts *session.Options, p *agent.Profile) {
		n.Store = opts.Store
		opts.Store, opts.Observers, p.IdleTimeout = n, []session.Observer{o}, time.Minute
		if change != nil {
			change(opts, p)
		}
	}), n, o
}

func TestTaskOfAWaitingAgentIsWrittenOnce(t *testing.T) {
	w, store, _ := hotWorld(t, nil)
	w.runHot("s", "x=kept")
	want := []string{"create queued", "update starting", "update running", "end succeeded"}
	if diff := cmp.Diff(want, store.fail(nil)); diff != "" {
		t.Errorf("a first task (-want +got):\n%s", diff)
	}
	if got := w.runHot("s", "echo $x"); got != "kept" {
		t.Errorf("the second task says %q", got)
	}
	if diff := cmp.Diff([]string{"create running", "end succeeded"}, store.fail(nil)); diff != "" {
		t.Errorf("a second task (-want +got):\n%s", diff)
	}
	if _, err := w.Submit(t.Context(), session.Submission{SessionID: "s", Request: session.Request{Message: ":"}, Key: "k"}); err != nil {
		t.Fatal(err)
	}
	if got := store.fail(nil); len(got) == 0 || got[0] != "create queued" {
		t.Errorf("a task with a key: %v", got)
	}
}

// Where a task can't be written down, its agent has not heard of it, and waits on.
func TestUnwrittenTaskIsRefused(t *testing.T) {
	w, store, o := hotWorld(t, nil)
	w.runHot("s", "x=0")
	o.of("s") // and forgets it
	for range 3 {
		store.fail(errors.New("no room"))
		_, err := w.Submit(t.Context(), session.Submission{SessionID: "s", Request: session.Request{Message: "x=1"}})
		if session.CodeOf(err) != session.CodeStorage {
			t.Errorf("Submit: %v", err)
		}
	}
	if got := o.of("s"); got != "" {
		t.Errorf("observers were told of it: %s", got)
	}
	store.fail(nil)
	if got := w.runHot("s", "echo $x"); got != "0" {
		t.Errorf("the next task says %q", got)
	}
	if tasks, _, err := w.Tasks(t.Context(), session.TaskFilter{}); err != nil || len(tasks) != 2 {
		t.Errorf("%d tasks, %v", len(tasks), err)
	}
}

// A task whose agent can't be used is written down before another boots.
func TestTaskOfAnUnusableAgent(t *testing.T) {
	w, store, o := hotWorld(t, nil)
	w.runHot("s", ":")
	store.fail(nil)
	o.of("s") // and forgets it
	task, err := w.Submit(t.Context(), session.Submission{SessionID: "s", Request: session.Request{Message: "echo $NEW_ENV", Env: map[string]string{"NEW_ENV": "set"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := w.wait(task).Result.Text; got != "set" {
		t.Errorf("it says %q", got)
	}
	if diff := cmp.Diff([]string{"create starting", "update running", "end succeeded"}, store.fail(nil)); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	want := lines("admitted queued {TraceParent: Restored:false}", "event task_queued", "event task_start",
		"started starting", "agent starting", "agent started cold on local", "event init", "event text", "event task_complete", "ended succeeded $0.5")
	if diff := cmp.Diff(want, o.of("s")); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

// An agent that waits is no way round a limit.
func TestWaitingAgentHoldsLimits(t *testing.T) {
	w, store, _ := hotWorld(t, func(o *session.Options, _ *agent.Profile) { o.Concurrency = 1 })
	w.runHot("a", ":")
	w.runHot("b", ":")
	held := w.submit("a", hold)
	w.started("a")
	store.fail(nil)
	second := w.submit("b", "echo b")
	if got := store.fail(nil); len(got) != 1 || got[0] != "create queued" {
		t.Errorf("written: %v", got)
	}
	w.letGo("a")
	w.wait(held)
	if got := w.wait(second).Result.Text; got != "b" {
		t.Errorf("it says %q", got)
	}
}

// hanging is a gateway that opens nothing until it may.
type hanging struct {
	agent.Gateway
	may chan struct{}
}

func (h *hanging) Open(ctx context.Context, _ agent.Lease) error {
	select {
	case <-h.may:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (*hanging) Close(context.Context, string) error { return nil }
func (*hanging) Totals(context.Context, string) (agent.Totals, error) {
	return agent.Totals{}, nil
}
func (*hanging) Forget(context.Context, string) error { return nil }
func (*hanging) Leases(context.Context) ([]agent.OpenLease, error) {
	return nil, nil
}

func noHelper(_ backends.Capabilities, task session.HelperTask) ([]string, []backends.Mount, error) {
	return task.Argv, nil, nil
}

// Who submits a task waits for the store, and not for the gateway.
func TestSubmitDoesNotWaitForTheGateway(t *testing.T) {
	h := &hanging{may: make(chan struct{})}
	w, store, _ := hotWorld(t, func(o *session.Options, _ *agent.Profile) { o.Gateway, o.Helper = h, noHelper })
	go func() { h.may <- struct{}{} }()
	w.runHot("s", ":")
	store.fail(nil)
	task := w.submit("s", ":")
	if diff := cmp.Diff([]string{"create running"}, store.fail(nil)); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	h.may <- struct{}{}
	if got := w.wait(task); got.State != session.TaskSucceeded {
		t.Errorf("it %s: %+v", got.State, got.Result.Error)
	}
}
