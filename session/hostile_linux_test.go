package session_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"claude-runner/agent"
	"claude-runner/backends"
	"claude-runner/session"
)

// victim is a folder outside of every session, which nothing may change.
type victim struct {
	dir    string
	before string
}

func newVictim(t testing.TB) *victim {
	t.Helper()
	v := &victim{dir: filepath.Join(t.TempDir(), "victim")}
	if err := os.MkdirAll(filepath.Join(v.dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "sub/b"} {
		if err := os.WriteFile(filepath.Join(v.dir, name), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v.before = v.state(t)
	return v
}

// state says what is there, whose it is, and with which modes.
func (v *victim) state(t testing.TB) string {
	var out strings.Builder
	err := filepath.WalkDir(v.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			st := info.Sys().(*syscall.Stat_t)
			_, err = fmt.Fprintln(&out, path, info.Mode(), st.Uid, st.Gid, st.Ino)
		}
		return err
	})
	if err != nil {
		t.Errorf("the victim's folder: %v", err)
	}
	return out.String()
}

func (v *victim) check(t testing.TB) {
	t.Helper()
	if now := v.state(t); now != v.before {
		t.Errorf("outside of the session there is\n%snow, which was\n%s", now, v.before)
	}
}

// sessionFolder makes a session's folders, and returns them with its workspace.
func sessionFolder(t testing.TB, owner backends.User) (f session.Folders, sessions, workspace string) {
	t.Helper()
	dir := sharedDir(t)
	f = session.NewFolders(dir)
	template, err := agent.LoadTemplate("")
	if err == nil {
		err = errors.Join(f.Prepare(), f.Ensure(t.Context(), "s", template, owner))
	}
	if err != nil {
		t.Fatal(err)
	}
	sessions = filepath.Join(dir, "sessions")
	return f, sessions, filepath.Join(sessions, "s", "workspace")
}

// deleted fails the test unless the session's folder can be deleted whole.
func deleted(t testing.TB, f session.Folders, sessions string) {
	t.Helper()
	if err := errors.Join(f.Remove("s"), f.Empty(context.Background())); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(sessions); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// deep makes folders in dir, each in the one before.
func deep(t testing.TB, dir string, levels int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	for i := 0; err == nil && i < levels; i++ {
		if err = unix.Mkdirat(fd, "d", 0o755); err == nil {
			var sub int
			if sub, err = unix.Openat(fd, "d", unix.O_DIRECTORY|unix.O_RDONLY, 0); err == nil {
				_ = unix.Close(fd)
				fd = sub
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
}

func TestHostileFoldersAreDeleted(t *testing.T) {
	v := newVictim(t)
	for name, make := range map[string]func(t *testing.T, dir string) error{
		"links out": func(_ *testing.T, dir string) error {
			return errors.Join(os.Symlink(v.dir, filepath.Join(dir, "l")), os.Symlink("/", filepath.Join(dir, "root")),
				os.Symlink("../../../..", filepath.Join(dir, "up")), os.Symlink("loop", filepath.Join(dir, "loop")))
		},
		"a hard link out": func(_ *testing.T, dir string) error {
			return os.Link(filepath.Join(v.dir, "a"), filepath.Join(dir, "a"))
		},
		"pipes and sockets": func(_ *testing.T, dir string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err == nil {
				defer unix.Close(fd)
				err = unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "s")})
			}
			return errors.Join(err, unix.Mkfifo(filepath.Join(dir, "p"), 0o600))
		},
		"odd names": func(_ *testing.T, dir string) error {
			var err error
			for _, name := range []string{"new\nline", "\xff\xfe", strings.Repeat("x", 255), " ", "-rf", "\x1b[2J", "…"} {
				err = errors.Join(err, os.Mkdir(filepath.Join(dir, name), 0o700), os.WriteFile(filepath.Join(dir, name, name), nil, 0))
			}
			return err
		},
		"closed folders": func(_ *testing.T, dir string) error {
			path := dir
			var err error
			for range 4 {
				path = filepath.Join(path, "closed")
				err = errors.Join(err, os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "f"), nil, 0))
			}
			for ; path != dir; path = filepath.Dir(path) {
				err = errors.Join(err, os.Chmod(path, 0))
			}
			return errors.Join(err, os.Chmod(dir, 0o500))
		},
		"10,000 levels": func(t *testing.T, dir string) error { deep(t, dir, 10_000); return nil },
		"20,000 files": func(_ *testing.T, dir string) error {
			for i := range 20_000 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
					return err
				}
			}
			return nil
		},
		"a link in place of a folder": func(_ *testing.T, dir string) error {
			return errors.Join(os.RemoveAll(dir), os.Symlink(v.dir, dir))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, sessions, workspace := sessionFolder(t, backends.User{})
			if name == "a hard link out" && os.Geteuid() != 0 {
				t.Skip("root's is the hard case")
			}
			if err := make(t, workspace); err != nil {
				t.Fatal(err)
			}
			if _, err := f.DiskUse(t.Context(), "s", 1<<30); (err != nil) != (name == "10,000 levels") {
				t.Errorf("measured: %v", err)
			}
			deleted(t, f, sessions)
			v.check(t)
		})
	}
}

// While a sandbox's process swaps folders for links that lead outside, the
// runner's work stays inside.
func TestRacesStayInside(t *testing.T) {
	v := newVictim(t)
	owners := []backends.User{{}, {}}
	if os.Geteuid() == 0 {
		owners = []backends.User{{UID: 10001, GID: 10001}, {UID: 10002, GID: 10002}}
	}
	template, err := agent.LoadTemplate("")
	if err != nil {
		t.Fatal(err)
	}
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		f, sessions, workspace := sessionFolder(t, owners[0])
		root, err := os.OpenRoot(filepath.Dir(workspace)) // what the process has open it keeps
		if err != nil {
			t.Fatal(err)
		}
		var g sync.WaitGroup
		stop := make(chan struct{})
		for i := range 2 {
			dir := fmt.Sprint("workspace/swapped", i)
			if err := errors.Join(root.MkdirAll(dir+"/sub/deeper", 0o777), root.Symlink(v.dir, dir+".link")); err != nil {
				t.Fatal(err)
			}
			g.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					// Either fails once the folder is gone.
					_ = root.Rename(dir, dir+".real")
					_ = root.Rename(dir+".link", dir)
					_ = root.Rename(dir, dir+".link")
					_ = root.Rename(dir+".real", dir)
					_ = root.Mkdir(dir+"/sub", 0o777)
				}
			})
		}
		for _, owner := range owners[1:] {
			if err := f.Ensure(t.Context(), "s", template, owner); err != nil {
				t.Logf("given to another: %v", err)
			}
			_, _ = f.DiskUse(t.Context(), "s", 1<<30)
		}
		if err := f.Remove("s"); err != nil {
			t.Error(err)
		}
		_ = f.Empty(t.Context()) // it may be refilled under its hands
		close(stop)
		g.Wait()
		_ = root.Close()
		if err := f.Empty(t.Context()); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(sessions); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		v.check(t)
	}
}

// What is linked into a session's folders from elsewhere stays its owner's.
func TestForeignFilesStayTheirOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files to others")
	}
	v := newVictim(t)
	one, two := backends.User{UID: 10001, GID: 10001}, backends.User{UID: 10002, GID: 10002}
	f, sessions, workspace := sessionFolder(t, one)
	own := filepath.Join(workspace, "own")
	if err := errors.Join(os.WriteFile(own, nil, 0o600), os.Chown(own, one.UID, one.GID), os.Link(own, own+"2"),
		os.Link(filepath.Join(v.dir, "a"), filepath.Join(workspace, "a"))); err != nil {
		t.Fatal(err)
	}
	template, err := agent.LoadTemplate("")
	if err == nil {
		err = f.Ensure(t.Context(), "s", template, two)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{own, own + "2", workspace} {
		if info, err := os.Stat(path); err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != two.UID {
			t.Errorf("%s was not given: %v", path, err)
		}
	}
	v.check(t)
	deleted(t, f, sessions)
}

func TestDiskUse(t *testing.T) {
	f, _, workspace := sessionFolder(t, backends.User{})
	use := func() int64 {
		t.Helper()
		n, err := f.DiskUse(t.Context(), "s", 1<<40)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := use()
	path := filepath.Join(workspace, "f")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := use() - before; got < 1<<20 || got > 1<<20+1<<16 {
		t.Errorf("a file of 1 MiB takes %d bytes", got)
	}
	before = use()
	if err := errors.Join(os.Link(path, path+"2"), os.WriteFile(path+"3", nil, 0o600), os.Truncate(path+"3", 1<<40)); err != nil {
		t.Fatal(err)
	}
	if got := use() - before; got < 2<<10 || got > 1<<16 {
		t.Errorf("a second link and a hole take %d bytes", got)
	}
}

// Trees that nobody thought of.
func TestAnyTreeIsDeleted(t *testing.T) {
	v := newVictim(t)
	rapid.Check(t, func(r *rapid.T) {
		f, sessions, workspace := sessionFolder(t, backends.User{})
		dirs := []string{workspace}
		name := rapid.SampledFrom([]string{"a", "b", "c", "new\nline", "\xff", ".up-x"})
		for range rapid.IntRange(0, 30).Draw(r, "entries") {
			path := filepath.Join(rapid.SampledFrom(dirs).Draw(r, "in"), name.Draw(r, "name"))
			switch rapid.IntRange(0, 4).Draw(r, "kind") {
			case 0, 1:
				if os.Mkdir(path, 0o700) == nil {
					dirs = append(dirs, path)
				}
			case 2:
				if f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
					_ = f.Close()
				}
			case 3:
				_ = os.Symlink(rapid.SampledFrom([]string{v.dir, "..", ".", "a", "/"}).Draw(r, "target"), path)
			case 4:
				_ = unix.Mkfifo(path, 0o600)
			}
		}
		for _, dir := range dirs {
			defer func() { _ = os.Chmod(dir, 0o700) }()
			_ = os.Chmod(dir, fs.FileMode(rapid.SampledFrom([]int{0o700, 0o500, 0o300, 0}).Draw(r, "mode")))
		}
		if _, err := f.DiskUse(t.Context(), "s", 1<<30); err != nil {
			r.Errorf("measured: %v", err)
		}
		deleted(t, f, sessions)
		v.check(t)
	})
}
