package gateway_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"claude-runner/agent/gateway"
	"claude-runner/backends"
)

// Whatever a sandbox's user has put at the socket's name gives way to the
// socket, and nothing that it leads to is touched.
func TestSocketReplacesWhatIsThere(t *testing.T) {
	_, url := upstream(t, greeting, scriptedOptions)
	for name, put := range map[string]func(t *testing.T, path, victim string) error{
		"nothing": func(*testing.T, string, string) error { return nil },
		"file":    func(_ *testing.T, path, _ string) error { return os.WriteFile(path, []byte("x"), 0o600) },
		"link to a file": func(_ *testing.T, path, victim string) error {
			return os.Symlink(filepath.Join(victim, "file"), path)
		},
		"link to a folder": func(_ *testing.T, path, victim string) error { return os.Symlink(victim, path) },
		"link to nothing":  func(_ *testing.T, path, victim string) error { return os.Symlink(filepath.Join(victim, "new"), path) },
		"full folder": func(_ *testing.T, path, victim string) error {
			if err := os.MkdirAll(filepath.Join(path, "a", "b"), 0o755); err != nil {
				return err
			}
			return os.Symlink(victim, filepath.Join(path, "a", "link"))
		},
		"fifo": func(_ *testing.T, path, _ string) error { return syscall.Mkfifo(path, 0o600) },
		"dead socket": func(_ *testing.T, path, _ string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err == nil {
				l.SetUnlinkOnClose(false)
				err = l.Close()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			victim := t.TempDir()
			if err := os.WriteFile(filepath.Join(victim, "file"), []byte("kept"), 0o644); err != nil {
				t.Fatal(err)
			}
			l := lease(t, url)
			if err := put(t, l.Socket, victim); err != nil {
				t.Fatal(err)
			}
			g, client := open(t, l, gateway.Options{})
			if response, text := do(t, client, request(t.Context(), body(false, "hi"))); response.StatusCode != http.StatusOK {
				t.Errorf("%s %s", response.Status, text)
			}
			info, err := os.Lstat(l.Socket)
			if err != nil || info.Mode().Type() != os.ModeSocket || info.Mode().Perm() != 0o600 {
				t.Errorf("at the socket's name: %v %v", info.Mode(), err)
			}
			if err := g.Close(t.Context(), l.ID); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(filepath.Dir(l.Socket)); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			kept, err := os.Lstat(filepath.Join(victim, "file"))
			if data, _ := os.ReadFile(filepath.Join(victim, "file")); err != nil || string(data) != "kept" || kept.Mode().Perm() != 0o644 {
				t.Errorf("what the link leads to: %q %v %v", data, kept, err)
			}
			if all, _ := os.ReadDir(victim); len(all) != 1 {
				t.Errorf("beside it: %v", all)
			}
		})
	}
}

func TestSocketFolderIsNoLink(t *testing.T) {
	l := lease(t)
	link := filepath.Join(t.TempDir(), "run")
	if err := os.Symlink(filepath.Dir(l.Socket), link); err != nil {
		t.Fatal(err)
	}
	l.Socket = filepath.Join(link, "s")
	g := gateway.New(gateway.Options{})
	if err := g.Open(t.Context(), l); err == nil {
		t.Error("a link was followed")
		_ = g.Shutdown(t.Context())
	}
}

// A lease that is opened again keeps the socket that it has, with the
// connections to it, also where the folder has another name by then.
func TestSocketStays(t *testing.T) {
	_, url := upstream(t, greeting, scriptedOptions)
	l := lease(t, url)
	g, client := open(t, l, gateway.Options{})
	call := func(what string) {
		t.Helper()
		if response, text := do(t, client, request(t.Context(), body(false, "hi"))); response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %s", what, response.Status, text)
		}
	}
	inode := func() uint64 {
		info, err := os.Lstat(l.Socket)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	first := inode()
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(filepath.Dir(l.Socket), moved); err != nil {
		t.Fatal(err)
	}
	l.Socket = filepath.Join(moved, "s")
	if err := g.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	client = inside(t, l.Socket)
	call("moved")
	if inode() != first {
		t.Error("it is another socket")
	}
	if err := os.Remove(l.Socket); err != nil {
		t.Fatal(err)
	}
	if err := g.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	call("on the old connection")
	client = inside(t, l.Socket)
	call("on the new socket")
}

func TestSocketHasAnOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	l := lease(t)
	l.Owner = backends.User{UID: 12345, GID: 23456}
	g, _ := open(t, l, gateway.Options{})
	check := func() {
		t.Helper()
		info, err := os.Lstat(l.Socket)
		if err != nil {
			t.Fatal(err)
		}
		if s := info.Sys().(*syscall.Stat_t); int(s.Uid) != l.Owner.UID || int(s.Gid) != l.Owner.GID || info.Mode().Perm() != 0o600 {
			t.Errorf("%d:%d %v", s.Uid, s.Gid, info.Mode())
		}
	}
	check()
	l.Owner = backends.User{UID: 12346, GID: 23457}
	if err := g.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	check()
}
