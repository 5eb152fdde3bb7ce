// Package pipe reads and writes pipes in processes that mostly wait. It has few
// imports, for processes that start in a few milliseconds (see package inside).
package pipe

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// End is an end of a pipe at which this process waits. It tells Go's scheduler of
// the waits, and not of the calls between them, none of which takes long: of a call
// that it is told of, it looks whether it takes long, and where the process was
// idle, it wakes a thread for that, which takes several times what the call does.
type End struct {
	file *os.File
	raw  syscall.RawConn
}

// Open takes over a file descriptor. From then on it does not block, whoever else
// has the same end.
func Open(fd int, name string) (*End, error) {
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return Of(os.NewFile(uintptr(fd), name))
}

// Of takes over a file that does not block, as the ends of os.Pipe, or a regular
// one: what is written to that waits for the disk only where the disk is far
// behind.
func Of(file *os.File) (*End, error) {
	raw, err := file.SyscallConn()
	return &End{file, raw}, err
}

// Read implements io.Reader.
func (e *End) Read(b []byte) (n int, err error) {
	failed := e.raw.Read(func(fd uintptr) bool {
		n, err = call(syscall.SYS_READ, fd, b)
		return !errors.Is(err, syscall.EAGAIN)
	})
	switch {
	case failed != nil:
		return 0, failed
	case err == nil && n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, err
}

// Write writes all of b, and waits for room.
func (e *End) Write(b []byte) (n int, err error) {
	failed := e.raw.Write(func(fd uintptr) bool {
		for n < len(b) {
			written := 0
			if written, err = call(syscall.SYS_WRITE, fd, b[n:]); err != nil {
				return !errors.Is(err, syscall.EAGAIN)
			}
			n += written
		}
		return true
	})
	if failed != nil {
		err = failed
	}
	return n, err
}

// SetReadDeadline has reads that wait then fail.
func (e *End) SetReadDeadline(t time.Time) error { return e.file.SetReadDeadline(t) }

// Close ends the waits of others, too.
func (e *End) Close() error { return e.file.Close() }

// call reads or writes at once.
func call(number, fd uintptr, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
