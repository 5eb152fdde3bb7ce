package backendtest

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"claude-runner/backends"
)

var fileCases = []testCase{
	{"a mount is seen where Capabilities.Path says", (*suite).mountPath},
	{"a mount's path may hold any character", (*suite).mountCharacters},
	{"what the sandbox writes to a mount is the host's at once", (*suite).mountIsLive},
	{"a read-only mount refuses writes", (*suite).readOnlyMount},
	{"an image's files can not be written", (*suite).readOnlyImage},
	{"a tmpfs can be written", (*suite).tmpfs},
}

func (s *suite) mountPath(t *testing.T) {
	spec := s.shell(`cat "$A/name" "$B/name"`)
	for name, target := range map[string]string{"A": "/mnt/first", "B": "/mnt/deep/er/second"} {
		m := backends.Mount{Source: OwnedDir(t, spec.User), Target: target}
		if err := os.WriteFile(filepath.Join(m.Source, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		spec.Mounts = append(spec.Mounts, m)
		spec.Env[name] = s.caps.Path(m)
		if want := target; s.caps.MountsAtTarget && spec.Env[name] != want {
			t.Errorf("Path of %+v is %q, want its target", m, spec.Env[name])
		}
	}
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "AB" {
		t.Errorf("the mounts hold %q, want %q", r.out, "AB")
	}
}

func (s *suite) mountCharacters(t *testing.T) {
	const odd = "a:b,c=\"d\" 'e'\\f $g 日本"
	spec := s.shell(`cat "$ODD/name"; echo ok > "$ODD/answer"`)
	m := backends.Mount{Source: filepath.Join(SharedDir(t), odd), Target: "/mnt/" + odd}
	if err := os.Mkdir(m.Source, 0o755); err != nil {
		t.Fatal(err)
	}
	give(t, m.Source, spec.User)
	if err := os.WriteFile(filepath.Join(m.Source, "name"), []byte("odd"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = []backends.Mount{m}
	spec.Env["ODD"] = s.caps.Path(m)
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "odd" {
		t.Errorf("the mount holds %q, want %q", r.out, "odd")
	}
	if _, err := os.Stat(filepath.Join(m.Source, "answer")); err != nil {
		t.Error(err)
	}
}

func (s *suite) mountIsLive(t *testing.T) {
	spec := s.shell("echo ready; while [ ! -e $W/go ]; do sleep 0.02; done; echo seen > $W/answer; echo done; exec sleep $" + markVar)
	dir := s.folder(t, &spec)
	sb := s.start(t, s.backend(t), spec)
	expectOutput(t, sb.Stdout(), "ready\n")
	touch(t, dir, "go")
	expectOutput(t, sb.Stdout(), "done\n")
	if got, err := os.ReadFile(filepath.Join(dir, "answer")); err != nil || string(got) != "seen\n" {
		t.Errorf("the answer is %q, %v", got, err)
	}
}

func (s *suite) readOnlyMount(t *testing.T) {
	if !s.caps.ReadOnlyMounts {
		t.Skip("ReadOnlyMounts is false")
	}
	spec := s.shell(`cat "$R/name" && ! touch "$R/name" && ! touch "$R/new" && ! rm "$R/name" && touch "$W/new"`)
	dir := s.folder(t, &spec)
	m := backends.Mount{Source: OwnedDir(t, spec.User), Target: "/mnt/template", ReadOnly: true}
	touch(t, m.Source, "name")
	give(t, filepath.Join(m.Source, "name"), spec.User)
	spec.Mounts = append(spec.Mounts, m)
	spec.Env["R"] = s.caps.Path(m)
	s.expectExit(t, spec, backends.Exit{})
	if _, err := os.Stat(filepath.Join(dir, "new")); err != nil {
		t.Errorf("the mount beside it is not writable: %v", err)
	}
}

// readOnlyImage tries the folders that every user may write in a usual image.
func (s *suite) readOnlyImage(t *testing.T) {
	if !s.caps.Images {
		t.Skip("Images is false")
	}
	s.expectExit(t, s.shell("! touch /file && ! touch /tmp/file && ! touch /var/tmp/file && ! touch /usr/bin/file"), backends.Exit{})
}

func (s *suite) tmpfs(t *testing.T) {
	if !s.caps.Images {
		t.Skip("Images is false")
	}
	spec := s.shell(`touch /tmp/file && printf '#!/bin/sh\necho runs\n' > /scratch/run && chmod +x /scratch/run && /scratch/run`)
	spec.Limits.Tmpfs = map[string]int64{"/tmp": 1 << 20, "/scratch": 1 << 20}
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "runs\n" {
		t.Errorf("a program in a tmpfs says %q, want %q", r.out, "runs\n")
	}
}

// checkOwner fails the test unless path belongs to u.
func checkOwner(t testing.TB, path string, u backends.User) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Error(err)
		return
	}
	st := info.Sys().(*syscall.Stat_t)
	if got := fmt.Sprintf("%d:%d", st.Uid, st.Gid); got != fmt.Sprintf("%d:%d", u.UID, u.GID) {
		t.Errorf("%s belongs to %s, want %d:%d", path, got, u.UID, u.GID)
	}
}
