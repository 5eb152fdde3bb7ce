package local

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"claude-runner/backends"
	"claude-runner/backends/internal/proc"
)

// adopts says that a keeper becomes the parent of its descendants' orphans, so
// that none escapes it.
const adopts = true

// platformNotes are what works less well than it should on this system.
var platformNotes []string

// ownProgram is the path of the program that this process runs, also where the
// file has been replaced.
func ownProgram() (string, error) { return "/proc/self/exe", nil }

// becomeReaper makes this process the parent of its descendants' orphans, and
// lets nothing that it starts gain privileges. The latter is the thread's, and
// init functions run on the main thread, as does the start of the main process.
func becomeReaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of orphans: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	return nil
}

// mainAttr are the attributes of the main process: a session of its own, and
// killed when the keeper is.
func mainAttr(u *backends.User) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL, Credential: credential(u)}
}

// childrenOf is what to wait for: every child, adopted ones too.
func childrenOf(int) int { return -1 }

// descendants lists what the keeper started and adopted.
func (k *keeper) descendants() []int { return proc.Host.Descendants(os.Getpid()) }

// childUsage is what all collected descendants have used. The peak is that of
// the largest, and at least the keeper's own size: a process begins as a copy.
func childUsage() backends.Usage {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &r); err != nil {
		return backends.Usage{}
	}
	return backends.Usage{CPU: time.Duration(r.Utime.Nano() + r.Stime.Nano()), MemoryPeak: r.Maxrss << 10}
}

// measure returns what measures the living descendants of a keeper, and those
// that it has collected. The keeper itself is no part of the sandbox.
func measure(keeper int, started string) func() proc.Usage {
	return proc.Host.Below(keeper, started).Usage
}

// startTime tells a process from another that has had its id: the clock ticks
// between the system's start and its own.
func startTime(pid int) (string, error) {
	st, err := proc.Host.Stat(pid)
	if err != nil {
		return "", err
	}
	return st.Started(), nil
}

// openProcess returns what becomes readable at a process's end.
func openProcess(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "process"), nil
}

// killMarked kills every process that has the sandbox's id in its environment,
// and their descendants, until there is none.
func killMarked(id string) (left bool) {
	for _, pid := range proc.Host.Processes() {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || !hasVariable(environ, markVar+"="+id) {
			continue
		}
		left = true
		for _, p := range append(proc.Host.Descendants(pid), pid) {
			_ = unix.Kill(p, unix.SIGKILL)
		}
	}
	return left
}

func hasVariable(environ []byte, variable string) bool {
	for kv := range bytes.SplitSeq(environ, []byte{0}) {
		if string(kv) == variable {
			return true
		}
	}
	return false
}
