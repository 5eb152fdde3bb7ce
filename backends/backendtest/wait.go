package backendtest

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"claude-runner/backends"
)

var waitCases = []testCase{
	{"returns for many callers, before and after the end", (*suite).waitMany},
	{"returns ctx's error when that ends early, and can be called again", (*suite).waitCancelled},
	{"returns once the output is read", (*suite).waitForReader},
	{"Spec.Timeout ends the tree and is told apart", (*suite).timeout},
	{"Spec.Timeout ends the tree although nobody reads", (*suite).timeoutUnread},
	{"Spec.Timeout does not touch what ends in time", (*suite).timeoutNotReached},
}

func (s *suite) waitMany(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("read x; exit 3"))
	want := backends.Exit{Code: 3}
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			if exit, err := sb.Wait(within(t)); err != nil || exit != want {
				t.Errorf("Wait: %+v, %v, want %+v", exit, err, want)
			}
		})
	}
	finish(t, sb)
	bounded(t, "the callers of Wait", func() error { callers.Wait(); return nil })
	for range 3 {
		if exit := wait(t, sb); exit != want {
			t.Errorf("Wait after the end: %+v, want %+v", exit, want)
		}
	}
	stop(t, sb, 0)
	if exit := wait(t, sb); exit != want {
		t.Errorf("Wait after Stop of an ended sandbox: %+v, want %+v", exit, want)
	}
}

func (s *suite) waitCancelled(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("read x"))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if exit, err := sb.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait with a context that ends: %+v, %v", exit, err)
	}
	if r := finish(t, sb); r.exit != (backends.Exit{Code: 1}) && r.exit != (backends.Exit{}) {
		t.Errorf("Wait afterwards: %+v", r.exit)
	}
}

func (s *suite) waitForReader(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("head -c 1000000 /dev/zero"))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if exit, err := sb.Wait(ctx); err == nil {
		t.Errorf("Wait returned %+v before anything was read", exit)
	}
	if r := finish(t, sb); len(r.out) != 1000000 || r.exit != (backends.Exit{}) {
		t.Errorf("%d bytes, %+v", len(r.out), r.exit)
	}
}

func (s *suite) timeout(t *testing.T) {
	spec := s.shell("trap '' TERM; setsid sleep $" + markVar + " & echo ready; while :; do sleep 1; done")
	spec.Timeout = 1500 * time.Millisecond
	sb := s.start(t, s.backend(t), spec)
	began := time.Now()
	r := finish(t, sb)
	if want := (backends.Exit{Code: -1, Signal: 9, TimedOut: true}); r.exit != want {
		t.Errorf("ended with %+v, want %+v", r.exit, want)
	}
	if r.out != "ready\n" {
		t.Errorf("output %q, want %q", r.out, "ready\n")
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("a time-out of %v took %v", spec.Timeout, took)
	}
	for _, p := range s.processes(t) {
		t.Errorf("still there after the time-out: %s", p)
	}
}

func (s *suite) timeoutUnread(t *testing.T) {
	spec := s.shell("cat /dev/zero")
	spec.Timeout = 1500 * time.Millisecond
	sb := s.start(t, s.backend(t), spec)
	eventually(t, "the end of all processes", func() bool { return len(s.processes(t)) == 0 })
	_ = sb.Stdin().Close()
	bounded(t, "reading to the end", func() error { _, err := io.Copy(io.Discard, sb.Stdout()); return err })
	if exit, want := wait(t, sb), (backends.Exit{Code: -1, Signal: 9, TimedOut: true}); exit != want {
		t.Errorf("ended with %+v, want %+v", exit, want)
	}
}

func (s *suite) timeoutNotReached(t *testing.T) {
	spec := s.shell("exit 4")
	spec.Timeout = time.Hour
	s.expectExit(t, spec, backends.Exit{Code: 4})
}
