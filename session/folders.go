package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"claude-runner/agent"
	"claude-runner/backends"
)

// folders keeps the sessions' folders:
//
//	DIR/sessions/<id>/workspace   the agent's working folder
//	DIR/sessions/<id>/home        its HOME: its memory
//	DIR/sessions/<id>/run         files between runner and agent
//
// What is inside those three belongs to the sandbox and is not trusted.
type folders struct {
	root string
	user backends.User // the sandboxes' user, where the runner is root
}

// Where a sandbox finds its folders, unless its backend shows it the host's own.
const (
	workspaceTarget = "/workspace"
	homeTarget      = "/home/agent"
	runTarget       = "/run/runner"
)

// trashPrefix begins the names of folders that are being removed. No session's
// id begins like that.
const trashPrefix = ".trash-"

// prepare makes the data folder. Other users may pass through the folder to
// their session, and list nothing.
func (f folders) prepare() error {
	for _, dir := range []string{f.root, f.sessions()} {
		if err := os.MkdirAll(dir, folderMode()); err != nil {
			return fmt.Errorf("make data folder: %w", err)
		}
	}
	return f.removeWarm()
}

// removeWarm takes away the folders of warm agents that an earlier process has
// left. Links among them are the other names of sessions' folders.
func (f folders) removeWarm() error {
	left, err := filepath.Glob(filepath.Join(f.sessions(), warmPrefix+"*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if info, err := os.Lstat(path); err != nil || !info.IsDir() {
			continue
		}
		if err := f.remove(filepath.Base(path)); err != nil {
			return err
		}
	}
	return nil
}

func folderMode() fs.FileMode {
	if os.Geteuid() == 0 {
		return 0o711
	}
	return 0o700
}

func (f folders) sessions() string { return filepath.Join(f.root, "sessions") }

// mounts returns a session's folders as its sandbox mounts them.
type mounts struct {
	workspace, home, run backends.Mount
}

func (f folders) mounts(id string) mounts {
	dir := filepath.Join(f.sessions(), id)
	return mounts{
		workspace: backends.Mount{Source: filepath.Join(dir, "workspace"), Target: workspaceTarget},
		home:      backends.Mount{Source: filepath.Join(dir, "home"), Target: homeTarget},
		run:       backends.Mount{Source: filepath.Join(dir, "run"), Target: runTarget},
	}
}

func (m mounts) all() []backends.Mount { return []backends.Mount{m.workspace, m.home, m.run} }

// ensure makes a session's folders where they are missing, the workspace from
// the template, and gives them to owner where they belong to somebody else.
func (f folders) ensure(ctx context.Context, id string, t *agent.Template, owner backends.User) error {
	if err := os.MkdirAll(filepath.Join(f.sessions(), id), folderMode()); err != nil {
		return fmt.Errorf("make session folder: %w", err)
	}
	dir, err := f.open(id)
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, err := dir.Lstat("workspace"); errors.Is(err, fs.ErrNotExist) {
		if err := f.fill(ctx, dir, filepath.Join(f.sessions(), id), t, owner); err != nil {
			return err
		}
	} else if err != nil {
		return fmt.Errorf("look at workspace: %w", err)
	}
	for _, name := range []string{"workspace", "home", "run"} {
		if err := dir.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make session folder: %w", err)
		}
		if info, err := dir.Lstat(name); err != nil || !info.IsDir() {
			return fmt.Errorf("the session's %s is not a folder; reset the session", name)
		}
		if err := giveTo(ctx, dir, name, owner); err != nil {
			return fmt.Errorf("give the session's %s to user %d, reset the session if this stays: %w", name, owner.UID, err)
		}
	}
	return nil
}

// open opens a session's folder.
func (f folders) open(id string) (*os.Root, error) {
	all, err := os.OpenRoot(f.sessions())
	if err != nil {
		return nil, fmt.Errorf("open data folder: %w", err)
	}
	defer all.Close()
	dir, err := all.OpenRoot(id)
	if err != nil {
		return nil, fmt.Errorf("open session folder: %w", err)
	}
	return dir, nil
}

// fill makes a workspace whole or not at all.
func (f folders) fill(ctx context.Context, dir *os.Root, path string, t *agent.Template, owner backends.User) error {
	const half = "workspace.new"
	if err := removeTree(ctx, dir, half); err != nil {
		return fmt.Errorf("remove a half-made workspace: %w", err)
	}
	if err := t.CopyTo(filepath.Join(path, half), owner); err != nil {
		return fmt.Errorf("copy template into workspace: %w", err)
	}
	if err := dir.Rename(half, "workspace"); err != nil {
		return fmt.Errorf("make workspace: %w", err)
	}
	return nil
}

// aliasFile, in a session's folder, holds another name by which its sandbox
// knows the folder.
const aliasFile = "alias"

// rename makes a warm agent's folder that of a session, which has none yet or an
// empty one. With alias, the old name leads there too, until the session's
// folder is removed: its sandbox, which sees this host's paths, and the agent's
// memory have it.
func (f folders) rename(from, id string, alias bool) error {
	source, target := filepath.Join(f.sessions(), from), filepath.Join(f.sessions(), id)
	if alias {
		if err := os.WriteFile(filepath.Join(source, aliasFile), []byte(from), 0o600); err != nil {
			return fmt.Errorf("note the folder's other name: %w", err)
		}
	}
	if err := os.Rename(source, target); err != nil {
		return err
	}
	if !alias {
		return nil
	}
	return os.Symlink(id, source)
}

// removeAlias removes the link that rename has made. What the file says is not
// to be trusted where sandboxes are of the runner's own user.
func (f folders) removeAlias(id string) error {
	dir, err := f.open(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if info, err := dir.Lstat(aliasFile); err != nil || !info.Mode().IsRegular() || info.Size() > 100 {
		return nil
	}
	name, err := dir.ReadFile(aliasFile)
	if err != nil {
		return fmt.Errorf("read the folder's other name: %w", err)
	}
	link := filepath.Join(f.sessions(), string(name))
	if filepath.Dir(link) != f.sessions() || !strings.HasPrefix(string(name), warmPrefix) {
		return nil
	}
	if to, err := os.Readlink(link); err != nil || to != id {
		return nil
	}
	return os.Remove(link)
}

// remove takes a session's folder away at once; empty deletes it.
func (f folders) remove(id string) error {
	if err := f.removeAlias(id); err != nil {
		return fmt.Errorf("remove session folder: %w", err)
	}
	trash := filepath.Join(f.sessions(), trashPrefix+uuid.NewString())
	if err := os.Rename(filepath.Join(f.sessions(), id), trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove session folder: %w", err)
	}
	return nil
}

// empty deletes what remove has taken away, of an earlier process too. What
// cannot be deleted stays for the next time.
func (f folders) empty(ctx context.Context) error {
	entries, err := os.ReadDir(f.sessions())
	if err != nil {
		return fmt.Errorf("read data folder: %w", err)
	}
	all, err := os.OpenRoot(f.sessions())
	if err != nil {
		return fmt.Errorf("open data folder: %w", err)
	}
	defer all.Close()
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			break
		}
		if strings.HasPrefix(e.Name(), trashPrefix) {
			if err := removeTree(ctx, all, e.Name()); err != nil {
				errs = append(errs, fmt.Errorf("delete the folder %s of an old session: %w", e.Name(), err))
			}
		}
	}
	return errors.Join(errs...)
}

// giveTo makes owner the owner of the folder name and of what is in it, where
// the runner may do so and the folder says that another has it. Links are
// given, never followed; what belongs to a third user, such as a file from
// elsewhere that is linked into it, stays that user's.
func giveTo(ctx context.Context, parent *os.Root, name string, owner backends.User) error {
	if os.Geteuid() != 0 || owner == (backends.User{}) {
		return nil
	}
	dir, err := parent.OpenRoot(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	top, err := dir.Stat(".")
	if err != nil || ownedBy(top, owner) {
		return err
	}
	before, ok := top.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner can not be told")
	}
	err = walk(ctx, dir, func(in *os.Root, name string, info fs.FileInfo) error {
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Uid != before.Uid || st.Uid == 0 && st.Nlink > 1 && !info.IsDir() {
			return nil
		}
		err := in.Lchown(name, owner.UID, owner.GID)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	return dir.Chown(".", owner.UID, owner.GID) // last: what is cut short is done again
}
