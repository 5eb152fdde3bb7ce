package proc

import (
	"os"
	"slices"
	"strings"
)

// Container measures a container of an engine on this host: each figure by the
// container's own cgroup where that can be read, else by its processes. Its
// methods may be called from any goroutine.
type Container struct {
	memory, cpu *group // nil where the container has none of its own
	tree        *Tree  // nil where it is not wanted, or not certain
}

// Container finds the container by its id and the process that the engine says
// is its first. Whatever process that is on this host, nothing of another than
// the container is ever measured: a cgroup has the container's id in its name,
// and the first process is the child of the engine's monitor, which has the id
// among its arguments.
func (r Root) Container(id string, pid int) *Container {
	c := &Container{}
	if id == "" || pid <= 0 {
		return c
	}
	if g, ok := r.own(pid, "memory", id); ok {
		if _, _, err := g.memory(); err == nil {
			c.memory = &g
		}
	}
	if g, ok := r.own(pid, "cpuacct", id); ok {
		if _, err := g.processorTime(); err == nil {
			c.cpu = &g
		}
	}
	if c.memory == nil || c.cpu == nil {
		if st, err := r.Stat(pid); err == nil && r.hasArgument(st.parent(), id) {
			c.tree = &Tree{root: r, pid: pid, started: st.Started(), self: true}
		}
	}
	return c
}

// Usage measures the container. What can not be measured is zero, all of it
// when the container has ended.
func (c *Container) Usage() Usage {
	var u Usage
	if c.tree != nil {
		u = c.tree.Usage()
	}
	if c.memory != nil {
		u.Memory, u.MemoryPeak, _ = c.memory.memory()
	}
	if c.cpu != nil {
		u.CPU, _ = c.cpu.processorTime()
	}
	return u
}

// hasArgument reports whether a process was given that argument.
func (r Root) hasArgument(pid int, argument string) bool {
	cmdline, err := os.ReadFile(r.process(pid, "cmdline"))
	return err == nil && slices.Contains(strings.Split(string(cmdline), "\x00"), argument)
}
