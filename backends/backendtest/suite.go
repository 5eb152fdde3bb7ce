package backendtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"claude-runner/backends"
)

// patience bounds what should take a moment, and only fails a test.
const patience = time.Minute

// grace is what Stop gives a process that is expected to obey.
const grace = 20 * time.Second

// suite is one Run.
type suite struct {
	Harness
	caps backends.Capabilities
	user backends.User // of every sandbox, unless a case says otherwise

	// mark is in the environment of each sandbox's main process, and is a
	// number of seconds, a day and a bit: what sleeps that long is ours too,
	// even with another environment.
	mark string
	name string       // prefix of each sandbox's name
	next atomic.Int64 // counts sandboxes
}

const (
	markVar   = "BACKENDTEST_MARK"
	folderVar = "W" // where a sandbox sees its folder, see (*suite).folder
)

func newSuite(t testing.TB, h Harness) *suite {
	var random [4]byte
	_, _ = rand.Read(random[:])
	id := binary.BigEndian.Uint32(random[:])
	s := &suite{Harness: h, mark: fmt.Sprintf("86400.%010d", id), name: fmt.Sprintf("bt%010d", id)}
	b := s.backend(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := b.Check(ctx); err != nil {
		t.Fatalf("Check: %v", err)
	}
	s.caps = b.Capabilities()
	s.user = s.caps.SandboxUser(cmp.Or(h.User, backends.User{UID: 10001, GID: 10001}))
	return s
}

// backend returns a fresh backend object that is closed at the test's end.
func (s *suite) backend(t testing.TB) backends.Backend {
	t.Helper()
	b := s.New(t)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// shell returns the Spec of a sandbox that runs a shell script.
func (s *suite) shell(script string) backends.Spec {
	return backends.Spec{
		Name:  fmt.Sprintf("%s-%d", s.name, s.next.Add(1)),
		Image: s.Image,
		Pull:  backends.PullNever,
		Argv:  []string{"sh", "-c", script},
		Env:   map[string]string{markVar: s.mark},
		User:  s.user,
	}
}

// sleeper returns the Spec of a sandbox that says "ready" and sleeps on.
func (s *suite) sleeper() backends.Spec { return s.shell("echo ready; exec sleep $" + markVar) }

// folder mounts a new folder of the sandbox's user in spec and returns its
// path on the host. The sandbox finds it at $W.
func (s *suite) folder(t testing.TB, spec *backends.Spec) string {
	t.Helper()
	m := backends.Mount{Source: OwnedDir(t, spec.User), Target: "/workspace"}
	spec.Mounts = append(spec.Mounts, m)
	spec.Env[folderVar] = s.caps.Path(m)
	return m.Source
}

// start starts a sandbox on b that is stopped, at the latest, at the test's end.
func (s *suite) start(t testing.TB, b backends.Backend, spec backends.Spec) backends.Sandbox {
	t.Helper()
	sb, err := b.Start(within(t), spec)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	stopAtEnd(t, sb)
	return sb
}

// stopAtEnd stops sb at the test's end.
func stopAtEnd(t testing.TB, sb backends.Sandbox) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := sb.Stop(ctx, 0); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
}

// result is what came of a sandbox.
type result struct {
	out, err string
	exit     backends.Exit
}

// run starts a sandbox, reads it to its end and stops it.
func (s *suite) run(t testing.TB, spec backends.Spec) result {
	t.Helper()
	sb := s.start(t, s.backend(t), spec)
	r := finish(t, sb)
	stop(t, sb, 0)
	return r
}

// finish closes a sandbox's standard input, reads its output to the end, and
// waits for it.
func finish(t testing.TB, sb backends.Sandbox) result {
	t.Helper()
	_ = sb.Stdin().Close() // a sandbox that has ended may refuse
	out := read(t, sb.Stdout())
	exit := wait(t, sb)
	return result{out: out, err: read(t, sb.Stderr()), exit: exit}
}

// expectExit runs spec and fails the test unless it ends with want.
func (s *suite) expectExit(t testing.TB, spec backends.Spec, want backends.Exit) result {
	t.Helper()
	r := s.run(t, spec)
	if r.exit != want {
		t.Errorf("%q ended with %+v, want %+v; stdout %q, stderr %q", spec.Argv, r.exit, want, clip(r.out), clip(r.err))
	}
	return r
}

// within returns a context that ends after the suite's patience.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// wait waits for a sandbox whose output is read, or is being read.
func wait(t testing.TB, sb backends.Sandbox) backends.Exit {
	t.Helper()
	exit, err := sb.Wait(within(t))
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	return exit
}

// stop stops a sandbox and fails the test where that fails.
func stop(t testing.TB, sb backends.Sandbox, grace time.Duration) {
	t.Helper()
	if err := sb.Stop(within(t), grace); err != nil {
		t.Fatalf("Stop: %v", err)
	}
}

// read reads r to its end.
func read(t testing.TB, r io.Reader) string {
	t.Helper()
	var buf bytes.Buffer
	bounded(t, "reading to the end", func() error { _, err := io.Copy(&buf, r); return err })
	return buf.String()
}

// expectOutput reads len(want) bytes from r and fails the test unless they are want.
func expectOutput(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	bounded(t, fmt.Sprintf("waiting for %q", clip(want)), func() error { _, err := io.ReadFull(r, got); return err })
	if string(got) != want {
		t.Fatalf("read %q, want %q", clip(string(got)), clip(want))
	}
}

// bounded runs f and fails the test where it fails or outlasts the patience.
func bounded(t testing.TB, what string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	case <-time.After(patience):
		t.Fatalf("%s: not done after %v", what, patience)
	}
}

// eventually polls cond until it is true, and fails the test where it never is.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// touch makes an empty file, for a sandbox that polls for it.
func touch(t testing.TB, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// expectError fails the test unless err is want.
func expectError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want one that is %q", what, err, want)
	}
}

// clip shortens what is too long for a test's log.
func clip(s string) string {
	if len(s) > 400 {
		return s[:200] + "…" + s[len(s)-200:]
	}
	return strings.ToValidUTF8(s, "?")
}
