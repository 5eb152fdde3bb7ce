package podman_test

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/podman"
)

// services lists the services that listen at a socket.
func services(t *testing.T, socket string) map[int]string {
	return processes(t, func(args []string) bool {
		return filepath.Base(args[0]) == "podman" && args[len(args)-1] == "unix://"+socket
	})
}

// killServices kills them, and returns when they are gone. One that ends has no
// command line any more while its socket still takes connections.
func killServices(t *testing.T, socket string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		left := services(t, socket)
		if len(left) == 0 && !listens(socket) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("these do not end: %v", left)
		}
		for pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// listens reports whether something takes connections at a socket.
func listens(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func TestStartService(t *testing.T) {
	_, err := exec.LookPath("podman")
	backendtest.Require(t, "podman", err)
	socket := filepath.Join(filepath.Dir(socketPath(t)), "new", "podman.sock")
	var words words
	b := newBackend(t, podman.Config{Socket: socket, StartService: true}, backends.Options{Log: slog.New(slog.NewTextHandler(&words, nil))})
	t.Cleanup(func() { _ = b.Close() })
	if n := len(services(t, socket)); n != 0 {
		t.Errorf("New has started %d services", n)
	}
	status, err := backendtest.Check(b)
	if err != nil {
		t.Fatalf("Check: %v\n%s", err, words.String())
	}
	if status.Version == "" {
		t.Error("the engine has no version")
	}
	first := services(t, socket)
	if len(first) == 0 {
		t.Fatal("no service was started")
	}

	// One that has died is started again, though not for ever.
	killServices(t, socket)
	if _, err := b.List(within(t)); err != nil {
		t.Errorf("List after the service was killed: %v\n%s", err, words.String())
	}
	for range 10 {
		killServices(t, socket)
		if _, err = b.List(within(t)); err != nil {
			break
		}
	}
	if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "died each time") {
		t.Errorf("a service that dies again and again: %v, want an error that says so", err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if left := services(t, socket); len(left) > 0 {
		t.Errorf("after Close there is %v", left)
	}
}

func TestCloseEndsTheServiceItStarted(t *testing.T) {
	_, err := exec.LookPath("podman")
	backendtest.Require(t, "podman", err)
	socket := socketPath(t)
	b := newBackend(t, podman.Config{Socket: socket, StartService: true}, backends.Options{})
	t.Cleanup(func() { _ = b.Close() })
	if _, err := backendtest.Check(b); err != nil {
		t.Fatal(err)
	}
	// A second runner uses the same service, and leaves it alone.
	other := newBackend(t, podman.Config{Socket: socket, StartService: true}, backends.Options{})
	if _, err := backendtest.Check(other); err != nil {
		t.Error(err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if _, err := backendtest.Check(b); err != nil {
		t.Errorf("after another runner's Close: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if left := services(t, socket); len(left) > 0 {
		t.Errorf("after Close there is %v", left)
	}
	if _, err := b.Check(within(t)); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("Check after Close: %v, want ErrUnavailable", err)
	}
}

func TestServiceThatCanNotStart(t *testing.T) {
	t.Setenv("PATH", "/nowhere")
	b := closing(t, newBackend(t, podman.Config{Socket: socketPath(t), StartService: true}, backends.Options{}))
	if _, err := b.Check(within(t)); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "install Podman") {
		t.Errorf("Check without a podman program: %v", err)
	}

	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "podman"), []byte("#!/bin/sh\necho no good >&2\nexit 4\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	var words words
	b = closing(t, newBackend(t, podman.Config{Socket: socketPath(t), StartService: true},
		backends.Options{Log: slog.New(slog.NewTextHandler(&words, nil))}))
	began := time.Now()
	if _, err := b.Check(within(t)); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "exit status 4") {
		t.Errorf("Check with a service that ends at once: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("that took %v", took)
	}
	if !strings.Contains(words.String(), "no good") {
		t.Errorf("the log has not what the service said:\n%s", words.String())
	}
}

// words is a log that can be read while it is written.
type words struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}
