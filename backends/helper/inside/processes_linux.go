package inside

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// showsProcesses says whether this sandbox has a /proc.
func showsProcesses() bool {
	_, err := os.Stat("/proc/self/task")
	return err == nil
}

// maxDescendants are listed at once, so that no look is without an end.
const maxDescendants = 4096

// descendants lists the processes below pid, parents first, without except and
// those below it. Where it is empty there is none; otherwise what is being
// started while it looks may be missing.
func descendants(pid, except int) []int {
	var out []int
	for _, child := range children(pid) {
		if child != except {
			out = append(out, child)
		}
	}
	for i := 0; i < len(out) && len(out) < maxDescendants; i++ {
		out = append(out, children(out[i])...)
	}
	return out
}

// listsChildren says whether the kernel keeps lists of children
// (CONFIG_PROC_CHILDREN), which spares a look at every process of the host.
var listsChildren = sync.OnceValue(func() bool {
	_, err := os.Stat("/proc/thread-self/children")
	return err == nil
})

// children lists those of all threads of a process.
func children(pid int) []int {
	if !listsChildren() {
		return findChildren(pid)
	}
	var out []int
	tasks := procPath(pid, "task")
	for _, thread := range numbers(tasks) {
		list, _ := os.ReadFile(tasks + "/" + strconv.Itoa(thread) + "/children") // the thread may have ended
		for field := range strings.FieldsSeq(string(list)) {
			if child, err := strconv.Atoi(field); err == nil {
				out = append(out, child)
			}
		}
	}
	return out
}

// findChildren looks for the processes whose parent is pid.
func findChildren(pid int) []int {
	var out []int
	for _, p := range numbers("/proc") {
		if _, parent := readStat(p); parent == pid {
			out = append(out, p)
		}
	}
	return out
}

// stateOf says what a process does, by the state of its first thread, and which its
// parent is.
func stateOf(pid int) (state, int) {
	letter, parent := readStat(pid)
	switch letter {
	case 'R':
		return running, parent
	case 'T':
		return halted, parent
	case 't', 'Z', 'X', 0:
		return ended, parent
	}
	return waiting, parent
}

// readStat returns a process's state, as proc(5) abbreviates it, and its parent.
// Both are zero where there is no such process.
func readStat(pid int) (letter byte, parent int) {
	data, _ := os.ReadFile(procPath(pid, "stat"))
	// The second field is a name in parentheses, which may hold anything.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 2 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(string(fields[1]))
	return fields[0][0], parent
}

// numbers lists the entries of a folder that are numbers.
func numbers(folder string) []int {
	d, err := os.Open(folder)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var out []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			out = append(out, n)
		}
	}
	return out
}

func procPath(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// prSetDumpable is PR_SET_DUMPABLE of prctl(2).
const prSetDumpable = 4

// closeToOthers keeps other processes of the same user, the agent's above all,
// from this one's files and memory: through /proc they could read the commands
// before it does.
func closeToOthers() {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_PRCTL, prSetDumpable, 0, 0, 0, 0, 0)
}
