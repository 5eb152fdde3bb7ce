package backendtest

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"claude-runner/backends"
)

var stopCases = []testCase{
	{"asks the main process, which may end by itself", (*suite).stopAsks},
	{"ends what does not care", (*suite).stopDefault},
	{"kills what ignores SIGTERM, after grace", (*suite).stopKills},
	{"ends everything that left the main process's session", (*suite).stopStragglers},
	{"ends what is left by a main process that ended by itself", (*suite).stopOrphans},
	{"ends a process that forks all the time", (*suite).stopForker},
	{"right after Start", (*suite).stopAtOnce},
	{"is idempotent", (*suite).stopTwice},
	{"from many callers at once", (*suite).stopConcurrent},
	{"cut short by its context can be called again", (*suite).stopCutShort},
	{"after the end leaves the exit as it was", (*suite).stopAfterEnd},
	{"ends Stdout and Wait, also for those who never read", (*suite).stopUnread},
	{"ends a read of Stdout that waits", (*suite).stopBlockedReader},
	{"from the reader of Stdout, with more to read", (*suite).stopByReader},
	{"ends a write to Stdin that waits", (*suite).stopBlockedWriter},
}

func (s *suite) stopAsks(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("trap 'echo asked; exit 7' TERM; echo ready; while :; do sleep 0.05; done"))
	expectOutput(t, sb.Stdout(), "ready\n")
	stop(t, sb, grace)
	if got := read(t, sb.Stdout()); got != "asked\n" {
		t.Errorf("after Stop the output is %q, want %q", got, "asked\n")
	}
	if exit, want := wait(t, sb), (backends.Exit{Code: 7, Stopped: true}); exit != want {
		t.Errorf("ended with %+v, want %+v", exit, want)
	}
}

func (s *suite) stopDefault(t *testing.T) {
	sb := s.start(t, s.backend(t), s.sleeper())
	expectOutput(t, sb.Stdout(), "ready\n")
	began := time.Now()
	stop(t, sb, grace)
	if took := time.Since(began); took > grace/2 {
		t.Errorf("Stop took %v", took)
	}
	s.checkNothingLeft(t)
	if exit, want := wait(t, sb), (backends.Exit{Code: -1, Signal: 15, Stopped: true}); exit != want {
		t.Errorf("ended with %+v, want %+v", exit, want)
	}
}

func (s *suite) stopKills(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("trap '' TERM; echo ready; while :; do sleep 1; done"))
	expectOutput(t, sb.Stdout(), "ready\n")
	const grace = 500 * time.Millisecond
	began := time.Now()
	stop(t, sb, grace)
	if took := time.Since(began); took < grace || took > grace+10*time.Second {
		t.Errorf("Stop with a grace of %v took %v", grace, took)
	}
	s.checkNothingLeft(t)
	if exit, want := wait(t, sb), (backends.Exit{Code: -1, Signal: 9, Stopped: true}); exit != want {
		t.Errorf("ended with %+v, want %+v", exit, want)
	}
}

// stragglers starts processes of every kind that a plain kill would miss: of
// another session, orphaned, deaf to signals, with another environment.
const stragglers = `
setsid sleep $` + markVar + ` &
nohup sleep $` + markVar + ` >/dev/null 2>&1 &
(setsid sh -c 'sleep $` + markVar + ` & sleep $` + markVar + ` &' &)
setsid env -i sleep $` + markVar + ` </dev/null >/dev/null 2>&1 &
setsid sh -c 'trap "" TERM HUP INT; sleep $` + markVar + `; sleep $` + markVar + `' &
sleep 0.2
echo ready
`

func (s *suite) stopStragglers(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell(stragglers+"exec sleep $"+markVar))
	expectOutput(t, sb.Stdout(), "ready\n")
	if n := len(s.processes(t)); n < 6 {
		t.Errorf("only %d processes are there before Stop: the test does not see them", n)
	}
	stop(t, sb, grace)
	s.checkNothingLeft(t)
}

func (s *suite) stopOrphans(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell(stragglers+"exit 5"))
	r := finish(t, sb)
	if want := (backends.Exit{Code: 5}); r.exit != want {
		t.Errorf("ended with %+v, want %+v", r.exit, want)
	}
	stop(t, sb, 0)
	s.checkNothingLeft(t)
}

func (s *suite) stopForker(t *testing.T) {
	script := `hop() { sh -c "$1" sh "$1" & }; trap '' TERM; echo ready; n='sleep 0.01; setsid sh -c "$1" sh "$1" &'; hop "$n"; hop "$n"; hop "$n"; exec sleep $` + markVar
	sb := s.start(t, s.backend(t), s.shell(script))
	expectOutput(t, sb.Stdout(), "ready\n")
	time.Sleep(100 * time.Millisecond) // some generations
	stop(t, sb, 0)
	s.checkNothingLeft(t)
}

func (s *suite) stopAtOnce(t *testing.T) {
	for range 5 {
		sb := s.start(t, s.backend(t), s.sleeper())
		stop(t, sb, 0)
		s.checkNothingLeft(t)
		if exit := wait(t, sb); !exit.Stopped || exit.Signal != 9 && exit.Signal != 15 {
			t.Errorf("ended with %+v, want a signal and Stopped", exit)
		}
	}
}

func (s *suite) stopTwice(t *testing.T) {
	sb := s.start(t, s.backend(t), s.sleeper())
	for range 3 {
		stop(t, sb, grace)
		s.checkNothingLeft(t)
	}
}

func (s *suite) stopConcurrent(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell(stragglers+"exec sleep $"+markVar))
	expectOutput(t, sb.Stdout(), "ready\n")
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			if err := sb.Stop(within(t), time.Duration(i)*100*time.Millisecond); err != nil {
				t.Errorf("Stop: %v", err)
			}
			for _, p := range s.processes(t) {
				t.Errorf("still there when one of many callers of Stop is told that all is gone: %s", p)
			}
		})
	}
	bounded(t, "the callers of Stop", func() error { callers.Wait(); return nil })
	s.checkNothingLeft(t)
}

func (s *suite) stopCutShort(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("trap '' TERM; echo ready; while :; do sleep 1; done"))
	expectOutput(t, sb.Stdout(), "ready\n")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := sb.Stop(ctx, grace); err == nil {
		t.Error("Stop returned nil although its context ended before the grace")
	}
	stop(t, sb, 0)
	s.checkNothingLeft(t)
}

func (s *suite) stopAfterEnd(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("echo out; echo err >&2; exit 6"))
	r := finish(t, sb)
	stop(t, sb, grace)
	s.checkNothingLeft(t)
	if exit, want := wait(t, sb), (backends.Exit{Code: 6}); exit != want || r.exit != want {
		t.Errorf("ended with %+v and after Stop %+v, want %+v", r.exit, exit, want)
	}
	if got := read(t, sb.Stderr()); got != "err\n" {
		t.Errorf("after Stop stderr is %q, want what it was", got)
	}
}

func (s *suite) stopUnread(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("cat /dev/zero"))
	stop(t, sb, 0)
	s.checkNothingLeft(t)
	if exit := wait(t, sb); !exit.Stopped {
		t.Errorf("ended with %+v, want Stopped", exit)
	}
	bounded(t, "reading to the end", func() error { _, err := io.Copy(io.Discard, sb.Stdout()); return err })
}

func (s *suite) stopBlockedReader(t *testing.T) {
	sb := s.start(t, s.backend(t), s.sleeper())
	expectOutput(t, sb.Stdout(), "ready\n")
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, sb.Stdout()); ended <- err }()
	stop(t, sb, grace)
	bounded(t, "a read that waits", func() error { return <-ended })
	wait(t, sb)
}

func (s *suite) stopBlockedWriter(t *testing.T) {
	sb := s.start(t, s.backend(t), s.sleeper())
	wrote := make(chan error, 1)
	go func() { _, err := sb.Stdin().Write(s.input(make([]byte, 16<<20))); wrote <- err }()
	expectOutput(t, sb.Stdout(), "ready\n")
	stop(t, sb, 0)
	bounded(t, "a write that waits", func() error {
		if err := <-wrote; err == nil {
			t.Error("a write that nobody read succeeded")
		}
		return nil
	})
	_, err := sb.Stdin().Write([]byte("more"))
	expectError(t, "a write after Stop", err, backends.ErrStopped)
}

// stopByReader is how a reader that has had enough ends the sandbox. Most of
// standard error comes first: what comes beside output that nobody reads may wait.
func (s *suite) stopByReader(t *testing.T) {
	script := fmt.Sprintf("trap '' TERM; head -c %d /dev/zero >&2; yes out & yes err >&2 & wait", 16*backends.StderrLimit)
	sb := s.start(t, s.backend(t), s.shell(script))
	if _, err := io.CopyN(io.Discard, sb.Stdout(), 1<<20); err != nil {
		t.Fatal(err)
	}
	if stderr, ok := sb.Stderr().(interface{ Written() int64 }); ok {
		eventually(t, "all of standard error is counted", func() bool {
			stderr = sb.Stderr().(interface{ Written() int64 })
			return stderr.Written() > 4*backends.StderrLimit
		})
	}
	stop(t, sb, 0)
	read(t, sb.Stdout())
	if exit := wait(t, sb); !exit.Stopped {
		t.Errorf("ended with %+v, want Stopped", exit)
	}
}
