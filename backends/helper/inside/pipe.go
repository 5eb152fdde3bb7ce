package inside

import (
	"io"
	"os"
	"syscall"
	"unsafe"
)

// pipe is an end of a pipe at which this process waits. It tells Go of the waits,
// and not of the calls between them, none of which takes long: Go looks after each
// call that it is told of, and an idle process has to wake a thread for that, which
// takes several times what the call does.
type pipe struct {
	file *os.File
	raw  syscall.RawConn
}

// openPipe takes over a file descriptor, which no longer blocks from now on,
// whoever else has the same end.
func openPipe(fd int, name string) (*pipe, error) {
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), name)
	raw, err := file.SyscallConn()
	return &pipe{file, raw}, err
}

func (p *pipe) Read(b []byte) (n int, err error) {
	failed := p.raw.Read(func(fd uintptr) bool {
		n, err = call(syscall.SYS_READ, fd, b)
		return err != syscall.EAGAIN
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
func (p *pipe) Write(b []byte) (n int, err error) {
	failed := p.raw.Write(func(fd uintptr) bool {
		for n < len(b) {
			written := 0
			if written, err = call(syscall.SYS_WRITE, fd, b[n:]); err != nil {
				return err != syscall.EAGAIN
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

func (p *pipe) Close() error { return p.file.Close() }

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
