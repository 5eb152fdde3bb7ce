//go:build !linux

package gateway

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// maxSocketPath is the length that the path of a unix socket may have.
const maxSocketPath = 103

// ownProgram is the path of the program that this process runs.
func ownProgram() (string, error) { return os.Executable() }

// openFolder opens the folder, which may not be a link.
func openFolder(path string) (*os.Root, error) {
	before, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	folder, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	if after, err := folder.Stat("."); err != nil || !os.SameFile(before, after) {
		_ = folder.Close()
		return nil, fmt.Errorf("open the folder %s: it is a link", path)
	}
	return folder, nil
}

// withPath calls use with the file's path, where a unix socket can have it.
func withPath(folder *os.Root, name string, use func(path string) error) error {
	path := filepath.Join(folder.Name(), name)
	if len(path) > maxSocketPath {
		return fmt.Errorf("the path %s is too long for a unix socket, which may have %d bytes: use a shorter data_dir", path, maxSocketPath)
	}
	return use(path)
}

func listenIn(folder *os.Root, name string) (l *net.UnixListener, err error) {
	err = withPath(folder, name, func(path string) error {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	return l, err
}

// hide has no counterpart here.
func hide() error { return nil }
