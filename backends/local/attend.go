package local

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"claude-runner/backends"
)

// Commands on the control pipe, a line each.
const (
	stopCommand = "stop %d\n" // the grace in nanoseconds
	readCommand = "read %d\n" // how much of stdout is read, in bytes
)

// ownGrace is what a sandbox has when somebody ends the keeper with SIGTERM.
const ownGrace = 5 * time.Second

// attend waits for the main process's end, brings it about where the runner,
// the clock or a failure wants that, and returns when nothing is left.
func (k *keeper) attend(timeout time.Duration) backends.Exit {
	var (
		exit            backends.Exit
		limit, patience <-chan time.Time
		deadline        time.Time
		failed          = k.stdout.failed
	)
	if timeout > 0 {
		limit = time.After(timeout)
	}
	stop := func(grace time.Duration) { // the shortest grace of several counts
		if d := time.Now().Add(grace); !exit.Stopped || d.Before(deadline) {
			deadline, patience = d, time.After(grace)
		}
		if !exit.Stopped {
			exit.Stopped = true
			_ = unix.Kill(k.pid, unix.SIGTERM) // it may have ended
		}
	}
	for {
		select {
		case status := <-k.ended:
			k.killAll()
			exit.Code, exit.Signal = outcome(status)
			return exit
		case grace := <-k.stops:
			stop(grace)
		case s := <-k.signals:
			if s == unix.SIGTERM {
				stop(ownGrace)
			}
		case <-limit:
			if !exit.Stopped {
				exit.TimedOut = true
				k.killAll()
			}
		case <-patience:
			k.killAll()
		case <-failed:
			failed = nil
			k.killAll()
		}
	}
}

// obey carries out the runner's commands, from whichever runner.
func (k *keeper) obey(control *os.File) {
	lines := bufio.NewReader(control)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return // only where the pipe is broken: nobody commands any more
		}
		var n int64
		if _, err := fmt.Sscanf(line, stopCommand, &n); err == nil {
			k.stops <- time.Duration(n)
		} else if _, err := fmt.Sscanf(line, readCommand, &n); err == nil {
			k.stdout.wasRead(n)
		}
	}
}

// reap collects children, of which there are adopted ones where becomeReaper
// has that effect, until none is left. It tells of the main process's end when
// it knows whether anything else is left, which saves a look.
func (k *keeper) reap() {
	var main syscall.WaitStatus
	for options := 0; ; {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(childrenOf(k.pid), &status, options, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD
			close(k.gone)
			if options != 0 {
				k.ended <- main
			}
			return
		case pid == 0: // some are left
			options = 0
			k.ended <- main
		case pid == k.pid:
			main, options = status, unix.WNOHANG
		}
	}
}

// killAll kills every descendant until none is left. New ones may appear
// between a look and a kill, but not for ever.
func (k *keeper) killAll() {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if isClosed(k.gone) && adopts {
			return
		}
		left := k.descendants()
		if isClosed(k.gone) && len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
		}
		select {
		case <-k.gone:
		case <-time.After(pause):
		}
	}
}

// outcome reads a wait status as Exit wants it.
func outcome(status syscall.WaitStatus) (code, signal int) {
	if !status.Signaled() {
		return status.ExitStatus(), 0
	}
	if n, ok := linuxSignals[status.Signal()]; ok {
		return -1, n
	}
	return -1, int(status.Signal())
}

// linuxSignals are Linux's numbers of the signals whose numbers differ between
// systems.
var linuxSignals = map[syscall.Signal]int{
	syscall.SIGBUS: 7, syscall.SIGUSR1: 10, syscall.SIGUSR2: 12, syscall.SIGSYS: 31,
}
