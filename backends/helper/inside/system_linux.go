package inside

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// maxSocketPath is the length that a unix socket's path may have.
const maxSocketPath = 107

// withShortPath calls use with a path of the same file that a unix socket can
// have.
func withShortPath(path string, use func(string) error) error {
	if len(path) <= maxSocketPath || path[0] != '/' {
		return use(path)
	}
	last := strings.LastIndexByte(path, '/')
	folder, err := os.Open(path[:last+1])
	if err != nil {
		return err
	}
	defer folder.Close()
	return use("/proc/self/fd/" + strconv.Itoa(int(folder.Fd())) + path[last:])
}

// prSetChildSubreaper is PR_SET_CHILD_SUBREAPER of prctl(2).
const prSetChildSubreaper = 36

// becomeReaper makes this process the parent of its descendants' orphans, and
// says whether it is. A kernel that refuses leaves them to the sandbox's first
// process.
func becomeReaper() bool {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0, 0, 0, 0)
	return errno == 0
}

// agentAttr has the kernel kill the agent where the helper is killed: whoever
// started the helper takes its end for the agent's. That is the agent's alone;
// what it starts, and detaches, does not inherit it.
func agentAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// dieOf ends this process by a signal, which Go's own handler would report on
// stderr first. No core is dumped, for it would be the helper's.
func dieOf(s syscall.Signal) {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	// All zero, whatever its fields' order: the default handler, no flag, no mask.
	var action [64]byte
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	_ = syscall.Kill(syscall.Getpid(), s)
	time.Sleep(time.Second) // it may come to another thread
}
