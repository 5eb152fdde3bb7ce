package local

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keeperWatch waits for the end of a keeper, whoever its parent is.
type keeperWatch struct {
	folder  folder
	pid     int
	over    bool     // it had ended before the watch began
	process *os.File // readable at its end; nil where the system has no such thing
	done    chan struct{}
	once    sync.Once
	started string
}

func watchKeeper(f folder, d data) *keeperWatch {
	w := &keeperWatch{folder: f, pid: d.Keeper, started: d.Started, done: make(chan struct{})}
	process, err := openProcess(d.Keeper)
	switch {
	case isGone(err):
		w.over = true
	case err == nil && !w.isKeeper():
		w.over = true // another has its id now
		_ = process.Close()
	case err == nil:
		w.process = process
	}
	return w
}

// wait returns true at the keeper's end, and false after close.
func (w *keeperWatch) wait() bool {
	switch {
	case w.over:
		return true
	case w.process != nil:
		if !waitReadable(w.process) {
			return false
		}
	default:
		if !w.pollLock() {
			return false
		}
	}
	_, _ = syscall.Wait4(w.pid, nil, 0, nil) // only a child of this process wants that
	return true
}

// kill kills a keeper that does not end.
func (w *keeperWatch) kill() {
	if !w.over && w.isKeeper() {
		_ = unix.Kill(w.pid, unix.SIGKILL)
	}
}

func (w *keeperWatch) close() {
	w.once.Do(func() {
		close(w.done)
		if w.process != nil {
			_ = w.process.Close()
		}
	})
}

func (w *keeperWatch) isKeeper() bool {
	started, err := startTime(w.pid)
	return err == nil && started == w.started
}

// pollLock waits until nobody holds the folder's lock.
func (w *keeperWatch) pollLock() bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		lock, err := w.folder.lock()
		if err == nil {
			_ = lock.Close()
			return true
		}
		if isGone(err) {
			return true
		}
		select {
		case <-tick.C:
		case <-w.done:
			return false
		}
	}
}

// waitReadable waits until f can be read. It returns false when f is closed.
func waitReadable(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
	return err == nil
}
