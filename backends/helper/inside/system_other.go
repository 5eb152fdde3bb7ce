//go:build !linux

package inside

import (
	"net"
	"os/signal"
	"syscall"
	"time"
)

// dialUnix connects to a socket.
func dialUnix(path string) (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}

// becomeReaper has no counterpart here.
func becomeReaper() {}

func agentAttr() *syscall.SysProcAttr { return nil }

// dieOf ends this process by a signal.
func dieOf(s syscall.Signal) {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	signal.Reset(s)
	_ = syscall.Kill(syscall.Getpid(), s)
	time.Sleep(time.Second) // it may come to another thread
}
