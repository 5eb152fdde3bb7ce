package gateway

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ownProgram is the path of the program that this process runs, also where the
// file has been replaced or removed meanwhile.
func ownProgram() (string, error) { return "/proc/self/exe", nil }

// openFolder opens the folder, which may not be a link.
func openFolder(path string) (*os.Root, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open the folder", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// withPath calls use with a path of the file that is short enough for a unix
// socket, however long the folder's is.
func withPath(folder *os.Root, name string, use func(path string) error) error {
	dir, err := folder.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return use(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
}

func listenIn(folder *os.Root, name string) (l *net.UnixListener, err error) {
	err = withPath(folder, name, func(path string) error {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	return l, err
}

// hide keeps this process's memory from other processes of the same user.
func hide() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }
