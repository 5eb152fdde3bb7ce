package local_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/local"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(runnerVar); spec != "" {
		runRunner(spec)
	}
	goleak.VerifyTestMain(m)
}

func TestConformance(t *testing.T) { backendtest.Run(t, harness(t)) }

// TestConformanceUnprivileged runs TestConformance as a user who is not root.
func TestConformanceUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the test is not root, and TestConformance has shown it")
	}
	if testing.Short() {
		t.Skip("a second conformance run, in -short mode")
	}
	user := backends.User{UID: 10001, GID: 10001}
	program := copyProgram(t)
	cmd := exec.Command(program, "-test.run", "^TestConformance$", "-test.v")
	cmd.Dir = filepath.Dir(program)
	cmd.Env = append(os.Environ(), "HOME=/", "TMPDIR="+backendtest.OwnedDir(t, user))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user.UID), Gid: uint32(user.GID)}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("\n--- PASS: TestConformance ")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func BenchmarkSandbox(b *testing.B) { backendtest.Benchmark(b, harness(b)) }

func harness(t testing.TB) backendtest.Harness {
	dir := t.TempDir()
	own := filepath.Join(dir, "own")
	return backendtest.Harness{
		New:   func(t testing.TB) backends.Backend { return newBackend(t, own) },
		Other: func(t testing.TB) backends.Backend { return newBackend(t, filepath.Join(dir, "other")) },
		Dead:  deadBackend,
		Leftovers: func(t testing.TB) []string {
			left, err := filepath.Glob(filepath.Join(own, "*"))
			if err != nil {
				t.Fatal(err)
			}
			return left
		},
	}
}

// newBackend returns a backend whose sandboxes are of an unprivileged user.
func newBackend(t testing.TB, stateDir string) backends.Backend {
	t.Helper()
	b, err := local.New(local.Config{}, options(stateDir))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func options(stateDir string) backends.Options {
	o := backends.Options{
		Name: "local-test", Instance: filepath.Base(stateDir), StateDir: stateDir, Log: slog.New(slog.DiscardHandler),
	}
	if os.Geteuid() == 0 {
		o.User = backends.User{UID: 10001, GID: 10001}
	}
	return o
}

// deadBackend returns a backend that can not make its state folder.
func deadBackend(t testing.TB) backends.Backend {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return newBackend(t, filepath.Join(file, "state"))
}

// copyProgram copies this test's program to where any user can run it.
func copyProgram(t testing.TB) string {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(backendtest.SharedDir(t), "local.test")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// within returns a context that bounds what should take a moment.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// shell is the Spec of a sandbox that runs a script.
func shell(script string) backends.Spec {
	return backends.Spec{Name: "sandbox", Argv: []string{"sh", "-c", script}}
}

// start starts a sandbox on a backend that is closed at the test's end.
func start(t testing.TB, stateDir string, spec backends.Spec) (backends.Backend, backends.Sandbox) {
	t.Helper()
	b := newBackend(t, stateDir)
	t.Cleanup(func() { _ = b.Close() })
	sb, err := b.Start(within(t), spec)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		if err := sb.Stop(within(t), 0); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	return b, sb
}

// expectOutput reads what a sandbox says first.
func expectOutput(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v, want %q", got, err, want)
	}
}

// eventually waits until cond is true.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// processes lists the processes that have text in their arguments.
func processes(t testing.TB, text string) []string {
	t.Helper()
	list, err := exec.Command("ps", "-A", "-ww", "-o", "pid=,stat=,args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(list)) {
		if strings.Contains(line, text) && !strings.Contains(line, "<defunct>") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}
