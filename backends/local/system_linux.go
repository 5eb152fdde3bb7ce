package local

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"claude-runner/backends"
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
func (k *keeper) descendants() []int { return descendants(os.Getpid()) }

// childUsage is what all collected descendants have used. The peak is that of
// the largest, and at least the keeper's own size: a process begins as a copy.
func childUsage() backends.Usage {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &r); err != nil {
		return backends.Usage{}
	}
	return backends.Usage{CPU: time.Duration(r.Utime.Nano() + r.Stime.Nano()), MemoryPeak: r.Maxrss << 10}
}

// treeUsage is what the living descendants of a keeper, and those that it has
// collected, have used so far.
func treeUsage(keeper int) backends.Usage {
	const tick = time.Second / 100 // the kernel's USER_HZ, on every architecture that Go has
	var u backends.Usage
	if st, err := readStat(keeper); err == nil {
		u.CPU = tick * time.Duration(st.number(15)+st.number(16)) // cutime, cstime
	}
	for _, pid := range descendants(keeper) {
		st, err := readStat(pid)
		if err != nil {
			continue // it has ended
		}
		u.CPU += tick * time.Duration(st.number(13)+st.number(14)+st.number(15)+st.number(16))
		u.MemoryPeak = max(u.MemoryPeak, peak(pid))
	}
	return u
}

// startTime tells a process from another that has had its id: the clock ticks
// between the system's start and its own.
func startTime(pid int) (string, error) {
	st, err := readStat(pid)
	return st.field(21), err
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
	for _, pid := range pids() {
		environ, err := os.ReadFile(procPath(pid, "environ"))
		if err != nil || !hasVariable(environ, markVar+"="+id) {
			continue
		}
		left = true
		for _, p := range append(descendants(pid), pid) {
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

// descendants lists the processes below pid.
func descendants(pid int) []int {
	children := map[int][]int{}
	for _, p := range pids() {
		if st, err := readStat(p); err == nil {
			parent := int(st.number(3))
			children[parent] = append(children[parent], p)
		}
	}
	var out []int
	for todo := children[pid]; len(todo) > 0; todo = todo[1:] {
		out = append(out, todo[0])
		todo = append(todo, children[todo[0]]...)
	}
	return out
}

// pids lists this system's processes.
func pids() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var out []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// stat is /proc/PID/stat, cut into fields: proc(5) counts them from one.
type stat []string

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return nil, err
	}
	// The second field is a name in parentheses, which may hold both and spaces.
	head, rest, ok := strings.Cut(string(data), "(")
	end := strings.LastIndex(rest, ")")
	if !ok || end < 0 {
		return nil, errors.New("unreadable process status")
	}
	return append(stat{strings.TrimSpace(head), rest[:end]}, strings.Fields(rest[end+1:])...), nil
}

// field returns a field by its index, which is one less than proc(5)'s number.
func (s stat) field(i int) string {
	if i >= len(s) {
		return ""
	}
	return s[i]
}

func (s stat) number(i int) int64 {
	n, _ := strconv.ParseInt(s.field(i), 10, 64)
	return n
}

// peak is a process's largest resident set so far, in bytes.
func peak(pid int) int64 {
	data, err := os.ReadFile(procPath(pid, "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

func procPath(pid int, name string) string {
	return fmt.Sprintf("/proc/%d/%s", pid, name)
}
