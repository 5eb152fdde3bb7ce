package inside

import (
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"
)

// The sockets here are files: package net would cost the helper's start more
// than all the rest, for the packages that it makes Go initialise before.

// socket is a connected stream socket.
type socket struct{ *os.File }

// listenLoopback listens on a free port of 127.0.0.1.
func listenLoopback() (l *os.File, address string, err error) {
	fd, err := newSocket(syscall.AF_INET)
	if err != nil {
		return nil, "", err
	}
	var bound syscall.Sockaddr
	err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if err == nil {
		err = syscall.Listen(fd, syscall.SOMAXCONN)
	}
	if err == nil {
		bound, err = syscall.Getsockname(fd)
	}
	if err != nil {
		_ = syscall.Close(fd)
		return nil, "", err
	}
	port := bound.(*syscall.SockaddrInet4).Port
	return os.NewFile(uintptr(fd), "listener"), "127.0.0.1:" + strconv.Itoa(port), nil
}

// accept waits for a connection.
func accept(l *os.File) (socket, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return socket{}, err
	}
	fd, failed := -1, error(nil)
	err = raw.Read(func(listener uintptr) bool {
		fd, failed = acceptNow(int(listener))
		return !errors.Is(failed, syscall.EAGAIN) && !errors.Is(failed, syscall.EINTR) && !errors.Is(failed, syscall.ECONNABORTED)
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return socket{}, err
	}
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	return socket{os.NewFile(uintptr(fd), "connection")}, nil
}

// dialUnix connects to a socket that somebody listens on now.
func dialUnix(path string) (socket, error) {
	fd, err := newSocket(syscall.AF_UNIX)
	if err != nil {
		return socket{}, err
	}
	err = withShortPath(path, func(short string) error { return syscall.Connect(fd, &syscall.SockaddrUnix{Name: short}) })
	if err != nil {
		_ = syscall.Close(fd)
		return socket{}, &os.PathError{Op: "connect to", Path: path, Err: err}
	}
	return socket{os.NewFile(uintptr(fd), "gateway")}, nil
}

// closeWrite tells the peer that nothing more is coming.
func (s socket) closeWrite() error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	failed := error(nil)
	if err := raw.Control(func(fd uintptr) { failed = syscall.Shutdown(int(fd), syscall.SHUT_WR) }); err != nil {
		return err
	}
	return failed
}

// copyTo copies what comes from s to its end.
func (s socket) copyTo(to socket) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := s.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// newSocket makes a stream socket that Go can wait for and the agent does not
// inherit.
func newSocket(family int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	return ours(fd)
}

func acceptNow(listener int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, _, err := syscall.Accept(listener)
	if err != nil {
		return -1, err
	}
	return ours(fd)
}

func ours(fd int) (int, error) {
	syscall.CloseOnExec(fd)
	if err := syscall.SetNonblock(fd, true); err != nil {
		_ = syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}
