//go:build !linux

package inside

import (
	"os/signal"
	"syscall"
	"time"
)

// withShortPath calls use with the path: no other way to the file is known.
func withShortPath(path string, use func(string) error) error { return use(path) }

// becomeReaper has no counterpart here.
func becomeReaper() bool { return false }

func agentAttr() *syscall.SysProcAttr { return nil }

// dieOf ends this process by a signal.
func dieOf(s syscall.Signal) {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	signal.Reset(s)
	_ = syscall.Kill(syscall.Getpid(), s)
	time.Sleep(time.Second) // it may come to another thread
}
