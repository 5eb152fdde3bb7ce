package podman

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// helpers knows the engine's own processes for a container: its monitor
// (conmon), what that runs at the container's end, and its network.
type helpers struct {
	id    string // in the arguments of the monitor and of what it runs
	netns string // in the arguments of the network's process, or
	pid   string // the container's first process is
}

// helpers notes what the processes of a container are known by.
func (b *Backend) helpers(ctx context.Context, id string) helpers {
	h := helpers{id: id}
	if found, err := b.inspect(ctx, id); err == nil {
		h.netns = found.NetworkSettings.SandboxKey
		if found.State.PID > 0 {
			h.pid = strconv.Itoa(found.State.PID)
		}
	}
	return h
}

// await waits until the processes have ended. They do so by themselves once
// the container is gone. The host's processes, which may be many, are looked
// through when those that were found have ended, not all the time.
func (h helpers) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	for left := h.find(); len(left) > 0; left = h.find() {
		for _, pid := range left {
			for name := h.program(pid); name != ""; name = h.program(pid) {
				if err := sleep(ctx, 5*time.Millisecond); err != nil {
					return fmt.Errorf("a process of the engine has not ended: %s %s: %w", pid, name, err)
				}
			}
		}
	}
	return nil
}

// find lists the processes that are there.
func (h helpers) find() []string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []string
	for _, e := range entries {
		if pid := e.Name(); pid[0] <= '9' && h.program(pid) != "" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// program returns the path of the program that the process runs, "" where that
// is not one of the container's.
func (h helpers) program(pid string) string {
	cmdline, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil || len(cmdline) == 0 { // it has ended, or is the kernel's
		return ""
	}
	if args := bytes.Split(bytes.TrimSuffix(cmdline, []byte{0}), []byte{0}); h.owns(args) {
		return string(args[0])
	}
	return ""
}

func (h helpers) owns(args [][]byte) bool {
	network := false
	switch name := filepath.Base(string(args[0])); name {
	case "conmon", "podman":
	case "slirp4netns", "pasta", "pasta.avx2":
		network = true
	default:
		return false
	}
	for _, a := range args[1:] {
		a := string(a)
		if a == h.id || network && (h.netns != "" && a == h.netns || h.pid != "" && a == h.pid) {
			return true
		}
	}
	return false
}
