package gateway

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"claude-runner/backends"
)

// socket is a unix socket in a folder that may belong to a sandbox's user, who
// can put anything there at any time. So it is made in a folder that only this
// user can enter, with its owner and mode, and then moved to its name: nothing
// at that name, and no link, is ever followed.
type socket struct {
	listener *net.UnixListener
	folder   *os.Root
	name     string
	info     os.FileInfo // what tells it from another file
}

// bind makes a socket at path, in place of what is there.
func bind(path string, owner backends.User) (_ *socket, err error) {
	folder, err := openFolder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	s := &socket{folder: folder, name: filepath.Base(path)}
	defer func() {
		if err != nil {
			if s.listener != nil {
				_ = s.listener.Close()
			}
			_ = folder.Close()
		}
	}()
	nest := ".gateway-" + randomID()[:8]
	if err := folder.Mkdir(nest, 0o700); err != nil {
		return nil, err
	}
	defer func() { _ = folder.RemoveAll(nest) }()
	inside, err := folder.OpenRoot(nest)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	if err := isPrivate(inside); err != nil {
		return nil, err
	}
	if s.listener, err = listenIn(inside, "s"); err != nil {
		return nil, err
	}
	s.listener.SetUnlinkOnClose(false) // it is elsewhere by then
	if err := give(inside, "s", owner); err != nil {
		return nil, err
	}
	if s.info, err = inside.Lstat("s"); err != nil {
		return nil, err
	}
	if err := s.move(nest); err != nil {
		return nil, err
	}
	return s, nil
}

// isPrivate makes sure that the folder is the one that was made: only this user
// may change it.
func isPrivate(folder *os.Root) error {
	info, err := folder.Lstat(".")
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Geteuid() || info.Mode().Perm() != 0o700 {
		return errors.New("the folder is being changed by another user")
	}
	return nil
}

// give makes the owner the one who may connect.
func give(folder *os.Root, name string, owner backends.User) error {
	mode := os.FileMode(0o600)
	switch uid := os.Geteuid(); {
	case uid == 0:
		if err := folder.Lchown(name, owner.UID, owner.GID); err != nil {
			return err
		}
	case owner.UID != 0 && owner.UID != uid:
		mode = 0o666
	}
	return folder.Chmod(name, mode)
}

// move puts the socket from its nest to its name.
func (s *socket) move(nest string) error {
	err := s.folder.Rename(filepath.Join(nest, "s"), s.name)
	if err == nil {
		return nil
	}
	if err := s.folder.RemoveAll(s.name); err != nil { // a folder is in the way
		return fmt.Errorf("remove what is at the socket's name: %w", err)
	}
	return s.folder.Rename(filepath.Join(nest, "s"), s.name)
}

// at reports whether the socket is at path.
func (s *socket) at(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && os.SameFile(info, s.info)
}

// own gives the socket to another owner, where it still is at its name.
func (s *socket) own(owner backends.User) error {
	info, err := s.folder.Lstat(s.name)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !os.SameFile(info, s.info) || !ok || os.Geteuid() != 0 || int(stat.Uid) == owner.UID && int(stat.Gid) == owner.GID {
		return nil
	}
	return s.folder.Lchown(s.name, owner.UID, owner.GID)
}

// close stops listening, and removes the file where it is still there.
func (s *socket) close(remove bool) error {
	err := s.listener.Close()
	if remove {
		if info, lerr := s.folder.Lstat(s.name); lerr == nil && os.SameFile(info, s.info) {
			err = errors.Join(err, s.folder.Remove(s.name))
		}
	}
	return errors.Join(err, s.folder.Close())
}
