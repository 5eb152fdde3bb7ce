package session_test

import (
	"context"
	"testing"

	"claude-runner/agent"
	"claude-runner/backends"
	"claude-runner/session"
)

// lateBackend is one whose Check answers once it may.
type lateBackend struct {
	backends.Backend
	asked  chan struct{}
	answer chan struct{}
}

func (b lateBackend) Check(ctx context.Context) (backends.Status, error) {
	b.asked <- struct{}{}
	select {
	case <-b.answer:
		return b.Backend.Check(ctx)
	case <-ctx.Done():
		return backends.Status{}, ctx.Err()
	}
}

// TestBackendOutlivesItsAsker holds that a task whose abort comes while a backend
// is asked neither waits for the answer nor takes it from the task behind it.
func TestBackendOutlivesItsAsker(t *testing.T) {
	late := lateBackend{asked: make(chan struct{}, 10), answer: make(chan struct{})}
	w := newWorld(t, func(o *session.Options, _ *agent.Profile) {
		late.Backend, _ = o.Backends.Backend("local")
		o.Backends = backends.NewRegistry(backends.Define("late", struct{}{}, func(struct{}, backends.Options) (backends.Backend, error) {
			return late, nil
		}))
		if err := o.Backends.Add("late", &struct{}{}, backends.Options{Name: "local"}); err != nil {
			t.Fatal(err)
		}
	})

	first := w.submit("first", "echo")
	<-late.asked
	second := w.submit("second", "echo hello")
	if _, err := w.Abort(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	if got := w.wait(first); got.State != session.TaskAborted {
		t.Errorf("the aborted task: %s", got.State)
	}
	if got := w.BackendHealth(); len(got) != 0 {
		t.Errorf("known before the answer: %+v", got)
	}
	close(late.answer)
	if got := w.wait(second); got.State != session.TaskSucceeded {
		t.Errorf("the task behind it: %s, %+v", got.State, got.Result.Error)
	}
	if n := len(late.asked); n != 0 {
		t.Errorf("the backend was asked %d times more", n)
	}
}
