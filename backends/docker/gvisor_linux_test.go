package docker_test

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/docker"
	"claude-runner/backends/helper"
)

// A sandbox with gVisor reaches a socket of the host where the runtime's
// arguments let it, and Capabilities.Sockets says which it is.
func TestGVisorSockets(t *testing.T) {
	runsc, err := exec.LookPath("runsc")
	if err != nil {
		t.Skip("gVisor is not installed: ", err)
	}
	// ptrace runs everywhere; without a network gVisor has none to set up.
	base := []string{"--platform=ptrace", "--network=none"}
	runtimes := map[string]any{
		"runsc-closed": map[string]any{"path": runsc, "runtimeArgs": base},
		"runsc-open":   map[string]any{"path": runsc, "runtimeArgs": append(base, socketsArg(t, runsc))},
	}
	d := newDockerdWith(t, runtimes)
	d.load("tool")
	for name, reached := range map[string]bool{"runsc-closed": false, "runsc-open": true} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, docker.Config{Host: d.host(), Runtime: name}, "gvisor")
			t.Cleanup(func() { _ = b.Close() })
			if _, err := b.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			caps := b.Capabilities()
			if caps.Isolation != backends.IsolationUserspace || caps.Sockets != reached {
				t.Errorf("isolation %s, Sockets %v, want %v", caps.Isolation, caps.Sockets, reached)
			}
			dir := backendtest.OwnedDir(t, testUser())
			greet(t, filepath.Join(dir, "s"), "hello")
			spec := backends.Spec{
				Name: "dialer", Image: "tool", Pull: backends.PullNever, Argv: []string{"/tool", "dial", "unix", "/w/s"},
				User: testUser(), Mounts: []backends.Mount{{Source: dir, Target: "/w"}}, Network: backends.NetworkNone,
			}
			if got := said(t, b, spec); (got == "hello") != reached {
				t.Errorf("the sandbox reads %q", got)
			}
			if !reached {
				return
			}
			// The sandbox's helper leads there too.
			spec.Argv = append([]string{helper.Target, "-socket", "/w/s", "--"}, "/tool", "dial", "tcp", "$ADDRESS")
			spec.Env = map[string]string{"ADDRESS": helper.AddressToken}
			spec.Mounts = append(spec.Mounts, backends.Mount{Source: buildHelper(t), Target: helper.Target, ReadOnly: true})
			if got := said(t, b, spec); got != "hello" {
				t.Errorf("the sandbox reads %q by way of its helper", got)
			}
		})
	}
}

// said runs a sandbox to its end and returns its output.
func said(t *testing.T, b backends.Backend, spec backends.Spec) string {
	t.Helper()
	sb, err := b.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, sb)
	out, err := io.ReadAll(sb.Stdout())
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := sb.Wait(t.Context()); err != nil || exit != (backends.Exit{}) {
		text, _ := io.ReadAll(sb.Stderr())
		t.Logf("the sandbox ends with %+v, %v, and says %q", exit, err, text)
	}
	return string(out)
}

// buildHelper makes the helper's program, without the rest of claude-runner.
func buildHelper(t *testing.T) string {
	t.Helper()
	path := filepath.Join(backendtest.SharedDir(t), "claude-runner-helper")
	build := exec.Command("go", "build", "-o", path, "../helper/testdata/program")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return path
}

// socketsArg is the argument of this version of gVisor that opens sockets of
// the host.
func socketsArg(t *testing.T, runsc string) string {
	t.Helper()
	flags, _ := exec.Command(runsc, "flags").CombinedOutput()
	if strings.Contains(string(flags), "-host-uds") && !strings.Contains(string(flags), "fsgofer-host-uds") {
		return "--host-uds=open"
	}
	return "--fsgofer-host-uds"
}

// greet says a text to whoever connects to a socket.
func greet(t *testing.T, path, text string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}
