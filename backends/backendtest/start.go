package backendtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"claude-runner/backends"
)

var startCases = []testCase{
	{"a Spec that is not valid is ErrInvalidSpec", (*suite).startInvalid},
	{"a user other than FixedUser is ErrInvalidSpec", (*suite).startForeignUser},
	{"root is never a process's user", (*suite).startAsRoot},
	{"a program that is not there is ErrInvalidSpec or exit code 127", (*suite).startMissingProgram},
	{"a working folder that is not there is ErrInvalidSpec or made", (*suite).startMissingDir},
	{"a mount's source that is not there is ErrInvalidSpec", (*suite).startMissingMount},
	{"an image that is not there is ErrImageNotFound", (*suite).startMissingImage},
	{"a second sandbox of one name is ErrExists", (*suite).startTwice},
	{"a name is free once its sandbox is stopped", (*suite).startAgain},
	{"of many starts of one name one succeeds", (*suite).startRace},
	{"its context bounds the starting only", (*suite).startContextEnds},
	{"cancelled at any moment leaves nothing", (*suite).startCancelled},
	{"twenty sandboxes at once", (*suite).startMany},
}

// expectStartError fails the test unless spec's start fails with want and
// leaves nothing.
func (s *suite) expectStartError(t *testing.T, b backends.Backend, spec backends.Spec, want error) {
	t.Helper()
	sb, err := b.Start(within(t), spec)
	if err == nil {
		stopAtEnd(t, sb)
	}
	expectError(t, fmt.Sprintf("Start of %+v", spec), err, want)
	s.checkNothingLeft(t)
}

func (s *suite) startInvalid(t *testing.T) {
	b := s.backend(t)
	for what, edit := range map[string]func(*backends.Spec){
		"no name":                  func(p *backends.Spec) { p.Name = "" },
		"a name that is a path":    func(p *backends.Spec) { p.Name = "../" + p.Name },
		"no argv":                  func(p *backends.Spec) { p.Argv = nil },
		"NUL in argv":              func(p *backends.Spec) { p.Argv = append(p.Argv, "a\x00b") },
		"argv that is not UTF-8":   func(p *backends.Spec) { p.Argv = append(p.Argv, "\xff") },
		"a variable not UTF-8":     func(p *backends.Spec) { p.Env["A"] = "\xff" },
		"NUL in a variable":        func(p *backends.Spec) { p.Env["A"] = "a\x00b" },
		"= in a variable's name":   func(p *backends.Spec) { p.Env["A=B"] = "c" },
		"a relative folder":        func(p *backends.Spec) { p.Dir = "work" },
		"a relative mount":         func(p *backends.Spec) { p.Mounts = []backends.Mount{{Source: "work", Target: "/work"}} },
		"a negative limit":         func(p *backends.Spec) { p.Limits.PIDs = -1 },
		"an unknown network":       func(p *backends.Spec) { p.Network = "bridge" },
		"an unknown pull policy":   func(p *backends.Spec) { p.Pull = "often" },
		"a negative time-out":      func(p *backends.Spec) { p.Timeout = -1 },
		"an empty tmpfs":           func(p *backends.Spec) { p.Limits.Tmpfs = map[string]int64{"/tmp": 0} },
		"a mount without a target": func(p *backends.Spec) { p.Mounts = []backends.Mount{{Source: "/"}} },
	} {
		t.Run(what, func(t *testing.T) {
			spec := s.sleeper()
			edit(&spec)
			s.expectStartError(t, b, spec, backends.ErrInvalidSpec)
		})
	}
}

func (s *suite) startForeignUser(t *testing.T) {
	if s.caps.FixedUser == nil && os.Geteuid() == 0 {
		t.Skip("a runner that is root may be anybody")
	}
	spec := s.sleeper()
	spec.User = backends.User{UID: s.user.UID + 1, GID: s.user.GID + 1}
	s.expectStartError(t, s.backend(t), spec, backends.ErrInvalidSpec)
}

// startAsRoot lets the zero User mean what it means, which is never root.
func (s *suite) startAsRoot(t *testing.T) {
	spec := s.shell("id -u")
	spec.User = backends.User{}
	b := s.backend(t)
	sb, err := b.Start(within(t), spec)
	if err != nil {
		expectError(t, "Start", err, backends.ErrInvalidSpec)
		return
	}
	stopAtEnd(t, sb)
	if r := finish(t, sb); r.out == "0\n" || r.exit != (backends.Exit{}) {
		t.Errorf("the zero User is uid %q, %+v", strings.TrimSpace(r.out), r.exit)
	}
}

func (s *suite) startMissingProgram(t *testing.T) {
	for _, program := range []string{"no-such-program", "/no/such/program"} {
		spec := s.shell("")
		spec.Argv = []string{program, "argument"}
		b := s.backend(t)
		sb, err := b.Start(within(t), spec)
		if err != nil {
			expectError(t, "Start", err, backends.ErrInvalidSpec)
			if !strings.Contains(err.Error(), program) {
				t.Errorf("the error does not name the program: %v", err)
			}
			s.checkNothingLeft(t)
			continue
		}
		stopAtEnd(t, sb)
		if r := finish(t, sb); r.exit != (backends.Exit{Code: 127}) {
			t.Errorf("%s ended with %+v, want exit code 127", program, r.exit)
		}
	}
}

func (s *suite) startMissingDir(t *testing.T) {
	spec := s.shell("pwd")
	spec.Dir = "/no/such/folder"
	b := s.backend(t)
	sb, err := b.Start(within(t), spec)
	if err != nil {
		expectError(t, "Start", err, backends.ErrInvalidSpec)
		if !strings.Contains(err.Error(), spec.Dir) {
			t.Errorf("the error does not name the folder: %v", err)
		}
		s.checkNothingLeft(t)
		return
	}
	stopAtEnd(t, sb)
	if r := finish(t, sb); r.out != spec.Dir+"\n" || !s.caps.Images {
		t.Errorf("started in %q", r.out)
	}
}

func (s *suite) startMissingMount(t *testing.T) {
	spec := s.sleeper()
	m := backends.Mount{Source: filepath.Join(SharedDir(t), "missing"), Target: "/mnt"}
	spec.Mounts = []backends.Mount{m}
	s.expectStartError(t, s.backend(t), spec, backends.ErrInvalidSpec)
	if _, err := os.Stat(m.Source); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start made the source: %v", err)
	}
}

func (s *suite) startMissingImage(t *testing.T) {
	if !s.caps.Images {
		t.Skip("Images is false")
	}
	spec := s.sleeper()
	spec.Image, spec.Pull = "localhost/backendtest/no-such-image:none", backends.PullNever
	s.expectStartError(t, s.backend(t), spec, backends.ErrImageNotFound)
}

func (s *suite) startTwice(t *testing.T) {
	b := s.backend(t)
	spec := s.shell("read x")
	sb := s.start(t, b, spec)
	again := func(b backends.Backend, when string) {
		t.Helper()
		second, err := b.Start(within(t), spec)
		if err == nil {
			stopAtEnd(t, second)
		}
		expectError(t, "a second start "+when, err, backends.ErrExists)
	}
	again(b, "while the first runs")
	again(s.backend(t), "by another process while the first runs")
	finish(t, sb)
	again(b, "after the first has ended")
	stop(t, sb, 0)
	s.expectExit(t, spec, backends.Exit{Code: 1}) // the name is free again; read finds end of file
}

// startAgain takes a name over as soon as it is to be had.
func (s *suite) startAgain(t *testing.T) {
	b := s.backend(t)
	spec := s.shell("while read -r x; do echo $x; done")
	sb := s.start(t, b, spec)
	for i := range 5 {
		stopped := make(chan error, 1)
		go func(old backends.Sandbox) { stopped <- old.Stop(within(t), 0) }(sb)
		eventually(t, "a free name", func() bool {
			next, err := b.Start(within(t), spec)
			if err != nil && !errors.Is(err, backends.ErrExists) {
				t.Fatalf("Start: %v", err)
			}
			if err == nil {
				sb = next
				stopAtEnd(t, next)
			}
			return err == nil
		})
		bounded(t, "Stop", func() error { return <-stopped })
		line := fmt.Sprintf("%d\n", i)
		if _, err := sb.Stdin().Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		expectOutput(t, sb.Stdout(), line)
	}
}

func (s *suite) startRace(t *testing.T) {
	objects := []backends.Backend{s.backend(t), s.backend(t)}
	spec := s.sleeper()
	var callers sync.WaitGroup
	var started atomic.Int64
	for i := range 6 {
		callers.Go(func() {
			sb, err := objects[i%2].Start(within(t), spec)
			if err != nil {
				expectError(t, "Start", err, backends.ErrExists)
				return
			}
			stopAtEnd(t, sb)
			started.Add(1)
		})
	}
	bounded(t, "the callers of Start", func() error { callers.Wait(); return nil })
	if n := started.Load(); n != 1 {
		t.Errorf("%d sandboxes of one name were started, want 1", n)
	}
}

func (s *suite) startContextEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	sb, err := s.backend(t).Start(ctx, s.shell("cat"))
	cancel()
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	stopAtEnd(t, sb)
	if _, err := sb.Stdin().Write([]byte("alive\n")); err != nil {
		t.Fatal(err)
	}
	expectOutput(t, sb.Stdout(), "alive\n")
	if r := finish(t, sb); r.exit != (backends.Exit{}) {
		t.Errorf("ended with %+v, want exit code 0", r.exit)
	}
}

// startCancelled ends Start's context at moments spread over a little more than
// a whole start. Where the start was quicker, it stops what was started.
func (s *suite) startCancelled(t *testing.T) {
	b := s.backend(t)
	began := time.Now()
	stop(t, s.start(t, b, s.sleeper()), 0)
	const moments = 24
	step := time.Since(began) / (moments - 4)
	for i := range moments {
		ctx, cancel := context.WithCancelCause(t.Context())
		timer := time.AfterFunc(time.Duration(i)*step, func() { cancel(nil) })
		if i == 0 {
			cancel(nil)
		}
		sb, err := b.Start(ctx, s.sleeper())
		timer.Stop()
		cancel(nil)
		if err == nil {
			stop(t, sb, 0)
		} else {
			expectError(t, fmt.Sprintf("Start cancelled after %v", time.Duration(i)*step), err, context.Canceled)
		}
		if i == 0 && err == nil {
			t.Error("Start with a context that has ended succeeded")
		}
		s.checkNothingLeft(t)
	}
}

func (s *suite) startMany(t *testing.T) {
	b := s.backend(t)
	var callers sync.WaitGroup
	for i := range 20 {
		callers.Go(func() {
			sb, err := b.Start(within(t), s.shell(fmt.Sprintf("cat; exit %d", i)))
			if err != nil {
				t.Errorf("Start: %v", err)
				return
			}
			stopAtEnd(t, sb)
			text := strings.Repeat(fmt.Sprintf("sandbox %d\n", i), 1000)
			go func() { _, _ = sb.Stdin().Write([]byte(text)); _ = sb.Stdin().Close() }()
			var out strings.Builder
			buf := make([]byte, 4096)
			for {
				n, err := sb.Stdout().Read(buf)
				out.Write(buf[:n])
				if err != nil {
					break
				}
			}
			exit, err := sb.Wait(within(t))
			if err != nil || exit != (backends.Exit{Code: i}) || out.String() != text {
				t.Errorf("sandbox %d: %+v, %v, output %q", i, exit, err, clip(out.String()))
			}
			if err := sb.Stop(within(t), 0); err != nil {
				t.Errorf("Stop: %v", err)
			}
		})
	}
	bounded(t, "the sandboxes", func() error { callers.Wait(); return nil })
}
