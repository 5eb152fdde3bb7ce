package podman

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxOpenFiles returns the hard limit of open files of the process that serves
// the API, which a rootless service can not raise for its containers; 0 where
// that is not to be known.
func maxOpenFiles(ctx context.Context, c *client) uint64 {
	conn, _, err := c.connect(ctx)
	if err != nil {
		return 0
	}
	raw, err := conn.GetDialer(ctx)
	if err != nil {
		return 0
	}
	defer raw.Close()
	socket, ok := raw.(*net.UnixConn)
	if !ok {
		return 0
	}
	control, err := socket.SyscallConn()
	if err != nil {
		return 0
	}
	var peer *unix.Ucred
	err = control.Control(func(fd uintptr) {
		peer, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || peer == nil || peer.Uid == 0 { // root may raise it
		return 0
	}
	return hardOpenFiles(int(peer.Pid))
}

// hardOpenFiles reads a line of /proc/PID/limits, as
// "Max open files            1024                 20000                files".
// prlimit(2) would need privileges for it.
func hardOpenFiles(pid int) uint64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if values, ok := strings.CutPrefix(lines.Text(), "Max open files"); ok {
			if v := strings.Fields(values); len(v) > 1 {
				n, _ := strconv.ParseUint(v[1], 10, 64) // "unlimited" is none
				return n
			}
		}
	}
	return 0
}
