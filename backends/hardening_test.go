package backends_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/backends"
)

func TestNoMountShowsAnEngine(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "engine", "my.sock")
	for _, folder := range []string{"engine", "work"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "work", "any.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, target := range map[string]string{"to-engine": "engine", "to-root": "/", "to-run": "/var/run"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for source, refused := range map[string]bool{
		"/": true, "/run": true, "/var/run/": true, "/run/docker.sock": true, "/var/run/docker.sock": true, "/run/user": true,
		"/run/user/1000": true, "/run/user/1000/podman": true, "/run/podman/": true, "/run/../run": true,
		"/run/other": false, "/run/user/1000/other": false, "/srv": false, "/run2": false,
		own: true, in("engine"): true, dir: true, in("to-engine"): true, in("to-root"): true, in("to-run"): true,
		in("work"): false, in("work/any.sock"): true, in("work/not-there"): false,
	} {
		err := backends.CheckMounts([]backends.Mount{{Source: in("work"), Target: "/w"}, {Source: source, Target: "/x"}}, own)
		if refused != errors.Is(err, backends.ErrInvalidSpec) || !refused && err != nil {
			t.Errorf("%s: %v, want refused %v", source, err, refused)
		}
	}
}

func TestHardening(t *testing.T) {
	if got := (backends.Hardening{Seccomp: backends.SeccompDefault}).Loosened(); got != nil {
		t.Errorf("the default is loose: %q", got)
	}
	loose := backends.Hardening{WritableRoot: true, Capabilities: []string{"NET_RAW"}, NewPrivileges: true, Seccomp: "/f.json", UnmaskedProc: true}
	if _, err := loose.Check(); err != nil {
		t.Error(err)
	}
	got := loose.Loosened()
	if len(got) != 5 {
		t.Fatalf("%q", got)
	}
	for i, word := range []string{"writable_root", "NET_RAW", "new_privileges", "/f.json", "unmasked_proc"} {
		if !strings.Contains(got[i], word) {
			t.Errorf("%q does not name %s", got[i], word)
		}
	}
	for key, h := range map[string]backends.Hardening{
		"capabilities": {Capabilities: []string{"CAP_NET_RAW"}},
		"seccomp":      {Seccomp: "off"},
	} {
		if at, err := h.Check(); err == nil || at != key {
			t.Errorf("%+v: %q, %v", h, at, err)
		}
	}
}
