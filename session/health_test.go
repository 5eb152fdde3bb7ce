package session_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"claude-runner/agent"
	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/local"
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
	dir := backendtest.SharedDir(t)
	late := lateBackend{asked: make(chan struct{}, 10), answer: make(chan struct{})}
	reg := backends.NewRegistry(backends.Define("late", local.Config{}, func(cfg local.Config, opts backends.Options) (b backends.Backend, err error) {
		late.Backend, err = local.New(cfg, opts)
		return late, err
	}))
	err := reg.Add("late", &local.Config{}, backends.Options{
		Name: "local", Instance: "session-test", StateDir: filepath.Join(dir, "backends", "local"), User: sandboxUser,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	w := openWorld(t, dir, func(o *session.Options, _ *agent.Profile) { o.Backends = reg })

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
