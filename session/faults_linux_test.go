package session_test

import (
	"context"
	"database/sql" //nolint:depguard // another program that uses the database
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"claude-runner/backends/backendtest"
	"claude-runner/session"
	"claude-runner/session/sqlite"
)

// hog fills the folder's file system until nothing more fits, and returns what
// gives the space back.
func hog(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "hog")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// A full disk: what can be refused is refused, what was accepted gets its end
// once there is room.
func TestFullDisk(t *testing.T) {
	// With room for the log of all that is written before it is first copied to the
	// database, which both need then.
	dir := backendtest.SmallDisk(t, "64m")
	// What agents say is elsewhere: this is about the database.
	if err := os.Symlink(sharedDir(t), filepath.Join(dir, "backends")); err != nil {
		t.Fatal(err)
	}
	w := openWorld(t, dir, nil)
	// Its end is long: it needs room that there is not.
	line := strings.Repeat("x", 99)
	task := w.submit("s", hold+"; yes "+line+" | head -n 3000")
	w.started("s")
	w.letGoOf(t, "s", hog(t, dir))
	if got := w.wait(task); got.State != session.TaskSucceeded || len(got.Result.Text) != 3000*len(line+"\n")-1 {
		t.Errorf("%s with %d bytes: %+v", got.State, len(got.Result.Text), got.Result.Error)
	}
	if got := w.run("s", "echo works"); got != "works" {
		t.Errorf("afterwards: %q", got)
	}
}

// letGoOf lets the held task of a session go on, holds that the runner says
// what is wrong while it can't write, and frees what it wants.
func (w *world) letGoOf(t *testing.T, id string, free func()) {
	t.Helper()
	defer free()
	// The file that is waited for has its place already: hold wants its name alone.
	if err := os.Rename(w.path(id, "started"), w.path(id, "go")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the runner is not ready", func() bool { return w.Ready() != nil })
	if err := w.Ready(); session.CodeOf(err) != session.CodeStorage {
		t.Errorf("Ready: %v", err)
	}
	big := strings.Repeat("x", 1<<20)
	_, err := w.Submit(t.Context(), session.Submission{SessionID: "other", Request: session.Request{Message: big}})
	if session.CodeOf(err) != session.CodeStorage {
		t.Errorf("Submit on a full disk: %v", err)
	}
	if _, err := w.Session(t.Context(), "other"); session.CodeOf(err) != session.CodeNoSession {
		t.Errorf("a task that was refused left a session: %v", err)
	}
}

// A database that another program holds: the same.
func TestLockedDatabase(t *testing.T) {
	w := newWorld(t, nil)
	task := w.submit("s", hold)
	w.started("s")
	// The runner may be writing at this moment: its turn is waited for.
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.dir, "runner.db")+"?_pragma=busy_timeout(20000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Submit(t.Context(), session.Submission{SessionID: "other", Request: session.Request{Message: "echo"}}); session.CodeOf(err) != session.CodeStorage {
		t.Errorf("Submit: %v", err)
	}
	w.letGo("s")
	eventually(t, "the runner is not ready", func() bool { return w.Ready() != nil })
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if got := w.wait(task); got.State != session.TaskSucceeded {
		t.Errorf("%s: %+v", got.State, got.Result.Error)
	}
	eventually(t, "the runner is ready", func() bool { return w.Ready() == nil })
}

// A data folder that became read-only: the runner does not start and says why,
// and what was accepted before is done once it can be written again.
func TestReadOnlyFolder(t *testing.T) {
	dir := backendtest.SmallDisk(t, "32m")
	// What agents say is elsewhere: it is open for writing, which keeps a file
	// system from becoming read-only.
	if err := os.Symlink(sharedDir(t), filepath.Join(dir, "backends")); err != nil {
		t.Fatal(err)
	}
	w := openWorld(t, dir, nil)
	running, waiting := w.submit("s", hold), w.submit("s", "echo works")
	w.started("s")
	w.close()
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_BIND|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	store, err := sqlite.Open(context.Background(), filepath.Join(dir, "runner.db"))
	if err == nil {
		t.Fatal("the database was opened", store.Close())
	}
	if !strings.Contains(err.Error(), filepath.Join(dir, "runner.db")) || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("it says %v", err)
	}
	remount(0)
	w = openWorld(t, dir, nil)
	w.letGo("s")
	for _, task := range []session.Task{running, waiting} {
		if got := w.wait(task); got.State != session.TaskSucceeded {
			t.Errorf("%s: %+v", got.State, got.Result.Error)
		}
	}
}

// A database that is removed under the runner: nothing is accepted that would
// be lost, and the runner can still be stopped.
func TestRemovedDatabase(t *testing.T) {
	w := newWorld(t, nil)
	task := w.submit("s", hold)
	w.started("s")
	path := filepath.Join(w.dir, "runner.db")
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	_, err := w.Submit(t.Context(), session.Submission{SessionID: "other", Request: session.Request{Message: "echo"}})
	if session.CodeOf(err) != session.CodeStorage {
		t.Errorf("Submit: %v", err)
	}
	w.letGo("s")
	eventually(t, "the runner is not ready", func() bool { return w.Ready() != nil })
	w.close()
	if err := os.Rename(path+".moved", path); err != nil {
		t.Fatal(err)
	}
	w = openWorld(t, w.dir, nil)
	if got := w.wait(task); got.State != session.TaskSucceeded {
		t.Errorf("after a restart: %s: %+v", got.State, got.Result.Error)
	}
}
