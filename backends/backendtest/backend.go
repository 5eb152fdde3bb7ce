package backendtest

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/backends"
)

var backendCases = []testCase{
	{"Name is not empty", (*suite).hasName},
	{"Capabilities make sense", (*suite).capabilities},
	{"Check returns when its context ends", (*suite).checkCancelled},
	{"an engine that does not answer is ErrUnavailable", (*suite).deadEngine},
	{"Close can be called again", (*suite).closeTwice},
	{"Close leaves sandboxes running", (*suite).closeLeaves},
	{"List names what runs and what has ended, with its labels", (*suite).list},
	{"List names this runner's sandboxes alone", (*suite).listOwn},
	{"a name of every allowed form", (*suite).names},
}

func (s *suite) hasName(t *testing.T) {
	if s.backend(t).Name() == "" {
		t.Error("Name is empty")
	}
}

func (s *suite) capabilities(t *testing.T) {
	c := s.caps
	switch c.Isolation {
	case backends.IsolationNone:
		if c.Warning == "" {
			t.Error("a backend that isolates nothing has no Warning")
		}
	case backends.IsolationContainer, backends.IsolationUserspace:
	default:
		t.Errorf("Isolation is %q", c.Isolation)
	}
	if len(c.Networks) == 0 {
		t.Error("Networks is empty")
	}
	if c.RecoverStdin && !c.Recover {
		t.Error("RecoverStdin without Recover")
	}
	if _, err := json.Marshal(c); err != nil {
		t.Error(err)
	}
}

func (s *suite) checkCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	_, err := s.backend(t).Check(ctx)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Check with a context that has ended took %v", took)
	}
	expectError(t, "Check", err, context.Canceled)
}

func (s *suite) deadEngine(t *testing.T) {
	if s.Dead == nil {
		t.Skip("the harness has no dead engine")
	}
	b := s.Dead(t)
	defer b.Close()
	began := time.Now()
	if _, err := b.Check(within(t)); err == nil {
		t.Error("Check of a dead engine succeeded")
	}
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("Check took %v, want at most ten seconds", took)
	}
	spec := s.sleeper()
	sb, err := b.Start(within(t), spec)
	if err == nil {
		stopAtEnd(t, sb)
	}
	expectError(t, "Start", err, backends.ErrUnavailable)
	_, err = b.List(within(t))
	expectError(t, "List", err, backends.ErrUnavailable)
}

func (s *suite) closeTwice(t *testing.T) {
	b := s.New(t)
	for range 2 {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

func (s *suite) closeLeaves(t *testing.T) {
	h := s.abandon(t, s.sleeper(), "ready\n")
	if len(s.processes(t)) == 0 {
		t.Error("Close ended the sandbox")
	}
	stop(t, s.takeOver(t, h, 0), 0)
}

func (s *suite) list(t *testing.T) {
	b := s.backend(t)
	running := s.sleeper()
	running.Labels = map[string]string{"session": "a", "with.dots/slash": "b c"}
	ended := s.shell("exit 0")
	ended.Labels = map[string]string{"session": "b"}
	first, second := s.start(t, b, running), s.start(t, b, ended)
	finish(t, second)

	for _, b := range []backends.Backend{b, s.backend(t)} {
		got := names(t, b)
		if len(got) != 2 {
			t.Errorf("List has %d sandboxes, want 2", len(got))
		}
		for _, spec := range []backends.Spec{running, ended} {
			h, ok := got[spec.Name]
			if !ok {
				t.Errorf("List has no %s", spec.Name)
				continue
			}
			checkHandle(t, h, b, spec)
		}
	}
	checkHandle(t, first.Handle(), b, running)
	stop(t, first, 0)
	stop(t, second, 0)
	if got := names(t, b); len(got) != 0 {
		t.Errorf("after Stop List has %v", got)
	}
}

func (s *suite) listOwn(t *testing.T) {
	if s.Other == nil {
		t.Fatal("the harness has no Other")
	}
	other := s.Other(t)
	t.Cleanup(func() { _ = other.Close() })
	own := s.backend(t)
	spec := s.sleeper()
	foreign := s.start(t, other, spec)
	if got := names(t, own); len(got) != 0 {
		t.Errorf("List has another runner's sandboxes: %v", got)
	}
	// A sandbox of the other runner may have any name.
	spec.Name = s.sleeper().Name
	s.start(t, own, spec)
	if got := names(t, other); len(got) != 1 || got[foreign.Handle().Name].Name == "" {
		t.Errorf("the other runner's List has %v, want its own sandbox", got)
	}
}

func (s *suite) names(t *testing.T) {
	for _, name := range []string{s.name + "A.b_c-9", (s.name + "-0123456789012345678901234567890123456789012345678901234567890")[:63]} {
		spec := s.shell("exit 0")
		spec.Name = name
		s.expectExit(t, spec, backends.Exit{})
	}
}

// names returns what List has, by name.
func names(t testing.TB, b backends.Backend) map[string]backends.Handle {
	t.Helper()
	handles, err := b.List(within(t))
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	out := map[string]backends.Handle{}
	for _, h := range handles {
		out[h.Name] = h
	}
	return out
}

// checkHandle fails the test unless h says what spec and b do.
func checkHandle(t testing.TB, h backends.Handle, b backends.Backend, spec backends.Spec) {
	t.Helper()
	if h.Backend != b.Name() || h.Name != spec.Name || h.ID == "" {
		t.Errorf("handle %+v, want backend %s, name %s and an ID", h, b.Name(), spec.Name)
	}
	labels := map[string]string{}
	for k := range spec.Labels {
		labels[k] = h.Labels[k]
	}
	if diff := cmp.Diff(spec.Labels, labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}
