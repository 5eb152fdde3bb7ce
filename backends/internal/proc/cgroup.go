package proc

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// group is a control group in one of the mounted hierarchies.
type group struct {
	root Root
	at   string // mount point
	path string // below that, beginning with a slash
	v2   bool
}

// group finds where a process is in the hierarchy of a controller: version 1's
// where the controller is there, else version 2's. Both may be mounted. It is
// false where that can not be seen from here.
func (r Root) group(pid, controller string) (group, bool) {
	memberships, err := os.ReadFile(r.file("proc", pid, "cgroup"))
	if err != nil {
		return group{}, false
	}
	var unified string
	for line := range strings.Lines(string(memberships)) {
		// As "4:memory:/docker/ID", and "0::/docker/ID" in version 2's.
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(f) < 3:
		case f[1] == "" && f[0] == "0":
			unified = f[2]
		case slices.Contains(strings.Split(f[1], ","), controller):
			return r.mounted(f[2], controller)
		}
	}
	if unified == "" {
		return group{}, false
	}
	return r.mounted(unified, "")
}

// mounted finds a cgroup by its path in the hierarchy of a version 1
// controller, or without one in version 2's.
func (r Root) mounted(name, controller string) (group, bool) {
	mounts, err := os.ReadFile(r.file("proc", "self", "mountinfo"))
	if err != nil {
		return group{}, false
	}
	for line := range strings.Lines(string(mounts)) {
		// As "14:35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory".
		mount, kind, ok := strings.Cut(line, " - ")
		f, k := strings.Fields(mount), strings.Fields(kind)
		if !ok || len(f) < 5 || len(k) < 3 {
			continue
		}
		if controller == "" && k[0] != "cgroup2" ||
			controller != "" && (k[0] != "cgroup" || !slices.Contains(strings.Split(k[2], ","), controller)) {
			continue
		}
		if below, ok := within(name, f[3]); ok {
			return group{root: r, at: f[4], path: below, v2: controller == ""}, true
		}
	}
	return group{}, false
}

// within makes a path one that is below a mount's root. A path that leads out
// of this process's cgroup namespace is in none.
func within(name, root string) (string, bool) {
	if name == "/.." || strings.HasPrefix(name, "/../") {
		return "", false
	}
	below, ok := strings.CutPrefix(name, strings.TrimSuffix(root, "/"))
	if !ok || below != "" && below[0] != '/' {
		return "", false
	}
	return path.Join("/", below), true
}

// named cuts the group down to the outermost that has id in its name. It is
// false where none has.
func (g group) named(id string) (group, bool) {
	end := 0
	for _, element := range strings.SplitAfter(g.path, "/") {
		end += len(element)
		if strings.Contains(element, id) {
			g.path = strings.TrimSuffix(g.path[:end], "/")
			return g, true
		}
	}
	return group{}, false
}

// parent returns the group that this one is in, and false above the topmost.
func (g group) parent() (group, bool) {
	if g.path == "/" {
		return group{}, false
	}
	g.path = path.Dir(g.path)
	return g, true
}

func (g group) file(name string) string { return g.root.file(g.at, g.path, name) }

// memory returns the bytes in use, without the page cache that the kernel can
// drop at once, and the most that there ever were, with it.
func (g group) memory() (now, peak int64, err error) {
	current, most, dropped := "memory.usage_in_bytes", "memory.max_usage_in_bytes", "total_inactive_file"
	if g.v2 {
		current, most, dropped = "memory.current", "memory.peak", "inactive_file"
	}
	if now, err = readNumber(g.file(current)); err != nil {
		return 0, 0, err
	}
	cache, err := readValue(g.file("memory.stat"), dropped)
	if err != nil {
		return 0, 0, err
	}
	peak, _ = readNumber(g.file(most)) // version 2 has it from Linux 5.19 on
	return max(now-cache, 0), max(peak, now), nil
}

// limit returns how many bytes the group may use; false where there is no
// limit. Version 1 has a huge one then.
func (g group) limit() (int64, bool) {
	name := "memory.limit_in_bytes"
	if g.v2 {
		name = "memory.max"
	}
	n, err := readNumber(g.file(name)) // version 2's "max" is no number
	return n, err == nil
}

// processorTime returns the processor time used, user and system.
func (g group) processorTime() (time.Duration, error) {
	if !g.v2 {
		n, err := readNumber(g.file("cpuacct.usage"))
		return time.Duration(n), err
	}
	n, err := readValue(g.file("cpu.stat"), "usage_usec")
	return time.Duration(n) * time.Microsecond, err
}

// own finds the cgroup of a controller that holds the process and carries id.
func (r Root) own(pid int, controller, id string) (group, bool) {
	g, ok := r.group(strconv.Itoa(pid), controller)
	if !ok {
		return group{}, false
	}
	return g.named(id)
}
