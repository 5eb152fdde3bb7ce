package docker_test

import (
	"os"
	"path/filepath"
	"testing"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/docker"
)

// A sandbox without a network has an /etc/hosts that nobody but its Spec's
// mounts replace, also where the file for it was taken away meanwhile.
func TestHostsFile(t *testing.T) {
	engineClient(t)
	state := t.TempDir()
	b, err := docker.New(docker.Config{}, backends.Options{Name: "docker", Instance: "hosts", StateDir: state, User: testUser(), Log: newLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	spec := backends.Spec{
		Name: "hosts", Image: testImage, Pull: backends.PullNever, Argv: []string{"cat", "/etc/hosts"},
		User: testUser(), Network: backends.NetworkNone,
	}
	const usual = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for range 2 {
		if got := said(t, b, spec); got != usual {
			t.Errorf("/etc/hosts is %q, want %q", got, usual)
		}
		if err := os.RemoveAll(state); err != nil {
			t.Fatal(err)
		}
	}
	own := filepath.Join(backendtest.SharedDir(t), "hosts")
	if err := os.WriteFile(own, []byte("127.0.0.1 here\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = []backends.Mount{{Source: own, Target: "/etc/hosts", ReadOnly: true}}
	if got := said(t, b, spec); got != "127.0.0.1 here\n" {
		t.Errorf("/etc/hosts is %q, want the mount's", got)
	}
}
