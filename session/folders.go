package session

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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

// prepare makes the data folder, and removes what an earlier process began to
// remove. Other users may pass through the folder to their session, and list
// nothing.
func (f folders) prepare() error {
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	for _, dir := range []string{f.root, f.sessions()} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("make data folder: %w", err)
		}
	}
	entries, err := os.ReadDir(f.sessions())
	if err != nil {
		return fmt.Errorf("read data folder: %w", err)
	}
	for _, e := range entries {
		if len(e.Name()) > len(trashPrefix) && e.Name()[:len(trashPrefix)] == trashPrefix {
			if err := os.RemoveAll(filepath.Join(f.sessions(), e.Name())); err != nil {
				return fmt.Errorf("remove an old session's folder: %w", err)
			}
		}
	}
	return nil
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
func (f folders) ensure(id string, t *agent.Template, owner backends.User) error {
	dir := filepath.Join(f.sessions(), id)
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("make session folder: %w", err)
	}
	m := f.mounts(id)
	if _, err := os.Lstat(m.workspace.Source); errors.Is(err, fs.ErrNotExist) {
		if err := f.fill(dir, m.workspace.Source, t, owner); err != nil {
			return err
		}
	} else if err != nil {
		return fmt.Errorf("look at workspace: %w", err)
	}
	for _, mount := range m.all() {
		if err := os.Mkdir(mount.Source, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make session folder: %w", err)
		}
		if err := giveTo(mount.Source, owner); err != nil {
			return fmt.Errorf("give session folder to user %d: %w", owner.UID, err)
		}
	}
	return nil
}

// fill makes a workspace whole or not at all.
func (f folders) fill(dir, workspace string, t *agent.Template, owner backends.User) error {
	half := filepath.Join(dir, "workspace.new")
	if err := os.RemoveAll(half); err != nil {
		return fmt.Errorf("remove a half-made workspace: %w", err)
	}
	if err := t.CopyTo(half, owner); err != nil {
		return fmt.Errorf("copy template into workspace: %w", err)
	}
	if err := os.Rename(half, workspace); err != nil {
		return fmt.Errorf("make workspace: %w", err)
	}
	return nil
}

// remove takes a session's folder away at once and then deletes it.
func (f folders) remove(id string) error {
	trash := filepath.Join(f.sessions(), trashPrefix+uuid.NewString())
	if err := os.Rename(filepath.Join(f.sessions(), id), trash); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove session folder: %w", err)
	}
	if err := removeAll(trash); err != nil {
		return fmt.Errorf("remove session folder: %w", err)
	}
	return nil
}

// removeAll removes a tree in which the sandbox may have taken away its own
// owner's right to write.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	walkErr := fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			return root.Chmod(path, 0o700)
		}
		return nil
	})
	return errors.Join(walkErr, os.RemoveAll(dir))
}

// giveTo makes owner the owner of a tree, where the runner may do so and its
// top says that another has it. Links are given, never followed.
func giveTo(dir string, owner backends.User) error {
	if os.Geteuid() != 0 || owner == (backends.User{}) {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if info, err := root.Lstat("."); err != nil || ownedBy(info, owner) {
		return err
	}
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return root.Lchown(path, owner.UID, owner.GID)
	})
}
