package backendtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"claude-runner/backends"
)

var recoverCases = []testCase{
	{"a running sandbox, from the beginning", (*suite).recoverRunning},
	{"a running sandbox, from every part of its output", (*suite).recoverMiddle},
	{"a sandbox that ended while nobody was there", (*suite).recoverEnded},
	{"a sandbox that ended by a signal", (*suite).recoverSignal},
	{"a sandbox that is gone is ErrNotFound", (*suite).recoverGone},
	{"what List names", (*suite).recoverListed},
	{"Spec.Timeout goes on", (*suite).recoverTimeout},
	{"Spec.Timeout that is over", (*suite).recoverTimedOut},
	{"Stop of a recovered sandbox leaves nothing", (*suite).recoverStop},
	{"Stdin, where Capabilities say so", (*suite).recoverStdin},
	{"Usage of a recovered sandbox", (*suite).recoverUsage},
}

// abandon starts spec and, once it has written its first bytes, closes the
// backend, as a runner's end would. It returns the handle as it was stored.
func (s *suite) abandon(t *testing.T, spec backends.Spec, first string) backends.Handle {
	t.Helper()
	if !s.caps.Recover {
		t.Skip("Recover is false")
	}
	b := s.New(t)
	sb, err := b.Start(within(t), spec)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	expectOutput(t, sb.Stdout(), first)
	stored, err := json.Marshal(sb.Handle())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	var h backends.Handle
	if err := json.Unmarshal(stored, &h); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.endAbandoned(t, h) })
	return h
}

// endAbandoned stops what a test that failed has not taken over and stopped.
func (s *suite) endAbandoned(t *testing.T, h backends.Handle) {
	b := s.New(t)
	defer b.Close()
	sb, err := b.Recover(within(t), h, 0)
	if errors.Is(err, backends.ErrNotFound) {
		return
	}
	if err != nil {
		t.Errorf("Recover of what is left: %v", err)
		return
	}
	stop(t, sb, 0)
}

// takeOver recovers a sandbox, which is stopped at the test's end.
func (s *suite) takeOver(t *testing.T, h backends.Handle, from int64) backends.Sandbox {
	t.Helper()
	sb, err := s.backend(t).Recover(within(t), h, from)
	if err != nil {
		t.Fatalf("Recover from %d: %v", from, err)
	}
	stopAtEnd(t, sb)
	if got := sb.Handle(); got.ID != h.ID || got.Name != h.Name || got.Backend != h.Backend {
		t.Errorf("the recovered sandbox's handle is %+v, want %+v", got, h)
	}
	return sb
}

// untilGo is a script that waits for the file "go" in the sandbox's folder.
const untilGo = "while [ ! -e $W/go ]; do sleep 0.02; done; "

func (s *suite) recoverRunning(t *testing.T) {
	spec := s.shell("echo one; echo err >&2; " + untilGo + "echo two; exit 9")
	dir := s.folder(t, &spec)
	sb := s.takeOver(t, s.abandon(t, spec, "one\n"), 0)
	expectOutput(t, sb.Stdout(), "one\n")
	touch(t, dir, "go")
	r := finish(t, sb)
	if want := (result{out: "two\n", err: "err\n", exit: backends.Exit{Code: 9}}); r != want {
		t.Errorf("the rest is %+v, want %+v", r, want)
	}
}

func (s *suite) recoverMiddle(t *testing.T) {
	spec := s.shell("cat $W/data; " + untilGo + "cat $W/data")
	dir := s.folder(t, &spec)
	data := append(noise(1<<20), '\n') // an unfinished line may be held back
	if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	h := s.abandon(t, spec, string(data))
	all := string(data) + string(data)
	for _, from := range []int{1, 65537, len(data) - 1, len(data)} {
		b := s.New(t)
		sb, err := b.Recover(within(t), h, int64(from))
		if err != nil {
			t.Fatalf("Recover from %d: %v", from, err)
		}
		expectOutput(t, sb.Stdout(), all[from:len(data)])
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	const from = 500_000
	sb := s.takeOver(t, h, from)
	touch(t, dir, "go")
	if r := finish(t, sb); r.out != all[from:] || r.exit != (backends.Exit{}) {
		t.Errorf("from %d: %d bytes, %+v, which are not the %d bytes that follow", from, len(r.out), r.exit, len(all)-from)
	}
}

func (s *suite) recoverEnded(t *testing.T) {
	spec := s.shell("echo one; " + untilGo + "echo two; echo err >&2; touch $W/ended; exit 9")
	dir := s.folder(t, &spec)
	h := s.abandon(t, spec, "one\n")
	touch(t, dir, "go")
	eventually(t, "the end", func() bool {
		_, err := os.Stat(filepath.Join(dir, "ended"))
		return err == nil && len(s.processes(t)) == 0
	})
	for from, want := range []string{"one\ntwo\n", "ne\ntwo\n"} {
		b := s.New(t)
		sb, err := b.Recover(within(t), h, int64(from))
		if err != nil {
			t.Fatalf("Recover: %v", err)
		}
		if r, want := finish(t, sb), (result{out: want, err: "err\n", exit: backends.Exit{Code: 9}}); r != want {
			t.Errorf("from %d: %+v, want %+v", from, r, want)
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	stop(t, s.takeOver(t, h, int64(len("one\ntwo\n"))), 0)
	s.checkNothingLeft(t)
}

func (s *suite) recoverSignal(t *testing.T) {
	spec := s.shell("echo one; " + untilGo + "kill -9 $$; sleep 60")
	dir := s.folder(t, &spec)
	h := s.abandon(t, spec, "one\n")
	touch(t, dir, "go")
	eventually(t, "the end", func() bool { return len(s.processes(t)) == 0 })
	if r, want := finish(t, s.takeOver(t, h, 0)), (result{out: "one\n", exit: backends.Exit{Code: -1, Signal: 9}}); r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
}

func (s *suite) recoverGone(t *testing.T) {
	if !s.caps.Recover {
		t.Skip("Recover is false")
	}
	b := s.backend(t)
	sb := s.start(t, b, s.sleeper())
	h := sb.Handle()
	stop(t, sb, 0)
	for _, b := range []backends.Backend{b, s.backend(t)} {
		_, err := b.Recover(within(t), h, 0)
		expectError(t, "Recover after Stop", err, backends.ErrNotFound)
	}
}

func (s *suite) recoverListed(t *testing.T) {
	spec := s.shell("echo one; " + untilGo + "exit 9")
	dir := s.folder(t, &spec)
	s.abandon(t, spec, "one\n")
	h, ok := names(t, s.backend(t))[spec.Name]
	if !ok {
		t.Fatal("List does not name it")
	}
	sb := s.takeOver(t, h, 0)
	touch(t, dir, "go")
	if r, want := finish(t, sb), (result{out: "one\n", exit: backends.Exit{Code: 9}}); r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
}

func (s *suite) recoverTimeout(t *testing.T) {
	spec := s.sleeper()
	spec.Timeout = 3 * time.Second
	h := s.abandon(t, spec, "ready\n")
	if r, want := finish(t, s.takeOver(t, h, 0)), (result{out: "ready\n", exit: backends.Exit{Code: -1, Signal: 9, TimedOut: true}}); r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
}

func (s *suite) recoverTimedOut(t *testing.T) {
	spec := s.sleeper()
	spec.Timeout = time.Second
	h := s.abandon(t, spec, "ready\n")
	time.Sleep(spec.Timeout) // the time-out, while nobody is there
	for range 2 {            // by whoever comes first, and known to whoever comes then
		b := s.New(t)
		sb, err := b.Recover(within(t), h, 0)
		if err != nil {
			t.Fatalf("Recover: %v", err)
		}
		if r, want := finish(t, sb), (result{out: "ready\n", exit: backends.Exit{Code: -1, Signal: 9, TimedOut: true}}); r != want {
			t.Errorf("%+v, want %+v", r, want)
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

func (s *suite) recoverStop(t *testing.T) {
	h := s.abandon(t, s.shell(stragglers+"exec sleep $"+markVar), "ready\n")
	sb := s.takeOver(t, h, 0)
	stop(t, sb, grace)
	s.checkNothingLeft(t)
	if exit, want := wait(t, sb), (backends.Exit{Code: -1, Signal: 15, Stopped: true}); exit != want {
		t.Errorf("ended with %+v, want %+v", exit, want)
	}
}

func (s *suite) recoverStdin(t *testing.T) {
	if !s.caps.RecoverStdin {
		t.Skip("RecoverStdin is false")
	}
	h := s.abandon(t, s.shell("echo ready; cat; echo end"), "ready\n")
	sb := s.takeOver(t, h, 0)
	expectOutput(t, sb.Stdout(), "ready\n")
	if _, err := io.WriteString(sb.Stdin(), "hello\n"); err != nil {
		t.Fatal(err)
	}
	expectOutput(t, sb.Stdout(), "hello\n")
	if r := finish(t, sb); r.out != "end\n" {
		t.Errorf("after Close of Stdin the output is %q, want %q", r.out, "end\n")
	}
}

func (s *suite) recoverUsage(t *testing.T) {
	sb := s.takeOver(t, s.abandon(t, s.sleeper(), "ready\n"), 0)
	for _, when := range []string{"running", "stopped"} {
		if u, err := sb.Usage(within(t)); err != nil || u.CPU < 0 || u.MemoryPeak < 0 {
			t.Errorf("%s: %s, %v", when, fmt.Sprintf("%+v", u), err)
		}
		stop(t, sb, 0)
	}
}
