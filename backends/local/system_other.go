//go:build !linux

package local

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"claude-runner/backends"
	"claude-runner/backends/internal/proc"
)

// adopts says that orphans have another parent than the keeper here.
const adopts = false

// psProgram is named by its path: a keeper has no environment to find it by.
const psProgram = "/bin/ps"

var platformNotes = []string{
	"This system gives orphans of a sandbox to another parent: a process that leaves its session, clears its environment and loses its parent is not ended with the sandbox.",
	"This system does not say how much processor time and memory a sandbox uses before it has ended.",
}

// ownProgram is the path of the program that this process runs.
func ownProgram() (string, error) { return os.Executable() }

// becomeReaper has no counterpart here.
func becomeReaper() error { return nil }

// mainAttr are the attributes of the main process: a session of its own.
func mainAttr(u *backends.User) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Credential: credential(u)}
}

// childrenOf is what to wait for: the main process. The keeper's other
// children are its own calls of ps.
func childrenOf(main int) int { return main }

// descendants lists what the main process started, as far as its session, its
// environment or its parents tell.
func (k *keeper) descendants() []int {
	return listProcesses(func(p process) bool { return p.pid == k.pid || p.group == k.pid || p.marked(k.id) })
}

// childUsage is what the main process, and what it has collected, have used.
func childUsage() backends.Usage {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &r); err != nil {
		return backends.Usage{}
	}
	return backends.Usage{CPU: time.Duration(r.Utime.Nano() + r.Stime.Nano()), MemoryPeak: r.Maxrss}
}

// measure has no counterpart here.
func measure(int, string) func() proc.Usage { return func() proc.Usage { return proc.Usage{} } }

// startTime tells a process from another that has had its id.
func startTime(pid int) (string, error) {
	out, err := exec.Command(psProgram, "-o", "lstart=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return "", fmt.Errorf("start of process %d: %w", pid, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// openProcess has no counterpart here.
func openProcess(int) (*os.File, error) { return nil, errors.ErrUnsupported }

// killMarked kills every process that has the sandbox's id in its environment,
// and their descendants. It says whether there was one.
func killMarked(id string) (left bool) {
	for _, pid := range listProcesses(func(p process) bool { return p.marked(id) }) {
		left = true
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	return left
}

// process is a line of ps.
type process struct {
	pid, parent, group int
	text               string // its arguments and environment
}

func (p process) marked(id string) bool { return strings.Contains(p.text, markVar+"="+id) }

// listProcesses lists the processes that match, and those below them.
func listProcesses(match func(process) bool) []int {
	out, err := exec.Command(psProgram, "-Aww", "-E", "-o", "pid=,ppid=,pgid=,command=").Output()
	if err != nil {
		return nil
	}
	var all []process
	var pids []int
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		var n [3]int
		for i := range n {
			n[i], _ = strconv.Atoi(f[i])
		}
		p := process{pid: n[0], parent: n[1], group: n[2], text: line}
		all = append(all, p)
		if match(p) {
			pids = append(pids, p.pid)
		}
	}
	for i := 0; i < len(pids); i++ { // pids grows
		for _, p := range all {
			if p.parent == pids[i] && !slices.Contains(pids, p.pid) {
				pids = append(pids, p.pid)
			}
		}
	}
	return pids
}
