package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"claude-runner/backends"
)

// DataDir is the folder of a workspace that is the agent's own.
const DataDir = "data"

// CopyTo makes the workspace dst from the template's files as they are now:
// files and folders with their permissions (of which the owner's to read and
// write are always given, and set-uid bits never), links as they are, and a
// folder data/. dst is made where it is not there, and must be empty. Where
// this process is root, all of it belongs to owner then.
//
// After an error dst holds a part of it: remove it.
func (t *Template) CopyTo(dst string, owner backends.User) error {
	files, closeFiles, err := t.open()
	if err != nil {
		return err
	}
	defer closeFiles()
	if err := os.Mkdir(dst, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the workspace: %w", err)
	}
	if err := t.checkTarget(dst); err != nil {
		return err
	}
	to, err := os.OpenRoot(dst)
	if err != nil {
		return fmt.Errorf("open the workspace: %w", err)
	}
	defer to.Close()

	c := copier{from: files, to: to, owner: owner}
	err = walkTemplate(files, c.copy)
	if err == nil {
		err = c.ownFolder(DataDir)
	}
	if err == nil {
		err = c.own(".")
	}
	if err != nil {
		return fmt.Errorf("copy template %s to a workspace: %w", t.name(), err)
	}
	return nil
}

// checkTarget refuses a workspace that has files, and one in the template's own
// folder, which would be copied into itself.
func (t *Template) checkTarget(dst string) error {
	switch entries, err := os.ReadDir(dst); {
	case err != nil:
		return fmt.Errorf("open the workspace: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("the workspace %s is not empty: it has %s", dst, entries[0].Name())
	case t.Dir == "":
		return nil
	}
	from, err := realPath(t.Dir)
	if err != nil {
		return fmt.Errorf("resolve the template's folder: %w", err)
	}
	to, err := realPath(dst)
	if err != nil {
		return fmt.Errorf("resolve the workspace's folder: %w", err)
	}
	if to == from || strings.HasPrefix(to, strings.TrimSuffix(from, "/")+"/") {
		return fmt.Errorf("the workspace %s is inside the template's folder %s: move data_dir out of it", dst, t.Dir)
	}
	return nil
}

func realPath(p string) (string, error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// copier copies one thing after the other into a workspace.
type copier struct {
	from  fs.FS
	to    *os.Root
	owner backends.User
}

func (c copier) copy(name string, info fs.FileInfo) error {
	var err error
	switch {
	case info.IsDir():
		err = c.folder(name, info)
	case info.Mode()&fs.ModeSymlink != 0:
		err = c.link(name)
	default:
		err = c.file(name)
	}
	if err != nil {
		return err
	}
	return c.own(name)
}

func (c copier) folder(name string, info fs.FileInfo) error {
	if err := c.to.Mkdir(name, 0o700); err != nil {
		return err
	}
	return c.to.Chmod(name, info.Mode().Perm()|0o700)
}

func (c copier) link(name string) error {
	target, err := fs.ReadLink(c.from, name)
	if err != nil {
		return err
	}
	return c.to.Symlink(target, name)
}

func (c copier) file(name string) error {
	in, err := c.from.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s was removed while it was copied: try again", name)
	}
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s changed while it was copied: try again", name)
	}
	out, err := c.to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, MaxTemplateBytes))
	return errors.Join(err, out.Chmod(c.mode(info)), out.Close())
}

// mode is the mode of a file's copy. Files in the binary have no modes of
// their own.
func (c copier) mode(info fs.FileInfo) fs.FileMode {
	if _, ok := c.from.(fs.ReadLinkFS); !ok {
		return 0o644
	}
	return info.Mode().Perm() | 0o600
}

func (c copier) ownFolder(name string) error {
	if err := c.to.Mkdir(name, 0o755); err != nil {
		if info, statErr := c.to.Lstat(name); statErr == nil && info.IsDir() {
			return nil
		}
		return fmt.Errorf("make the folder %s: %w", name, err)
	}
	return c.own(name)
}

func (c copier) own(name string) error {
	if os.Geteuid() != 0 || c.owner == (backends.User{}) {
		return nil
	}
	return c.to.Lchown(name, c.owner.UID, c.owner.GID)
}
