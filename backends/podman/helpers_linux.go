package podman

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
// the container is gone.
func (h helpers) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	for {
		left := h.find()
		if len(left) == 0 {
			return nil
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("processes of the engine have not ended: %s: %w", strings.Join(left, ", "), err)
		}
	}
}

// find lists the processes that are there.
func (h helpers) find() []string {
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		cmdline, err := os.ReadFile(e)
		if err != nil || len(cmdline) == 0 { // it has ended, or is the kernel's
			continue
		}
		if args := bytes.Split(bytes.TrimSuffix(cmdline, []byte{0}), []byte{0}); h.owns(args) {
			out = append(out, filepath.Base(filepath.Dir(e))+" "+string(args[0]))
		}
	}
	return out
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
