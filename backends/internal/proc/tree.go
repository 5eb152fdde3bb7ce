package proc

import (
	"errors"
	"io/fs"
	"sync"
	"syscall"
	"time"
)

const (
	// shareFresh is for how long a process's share of memory is believed, but
	// for the growth of the process since: the kernel walks all of its pages
	// for the share, some milliseconds for an agent.
	shareFresh = 30 * time.Second

	// shareGrowth is how much a process may grow or shrink until its share is
	// asked for again.
	shareGrowth = 4 << 20
)

// Tree measures what a process has started, and the process itself where it is
// part of that. Its methods may be called from any goroutine.
//
// Memory is the sum of the processes' proportional set sizes: a page that n
// processes share is counted 1/n for each. It is zero where the runner may not
// read that of one of them.
type Tree struct {
	root    Root
	pid     int
	started string
	self    bool

	mu     sync.Mutex
	shares map[int]share // nil: none was read yet
}

// share is a process's share of memory as it was read last.
type share struct {
	started  string
	read     time.Time
	bytes    int64
	resident int64 // then
	peak     int64 // the largest resident set until then
}

// Below returns what measures the processes below one that started then. What
// it has collected counts as theirs.
func (r Root) Below(pid int, started string) *Tree {
	return &Tree{root: r, pid: pid, started: started}
}

// Usage measures the tree. It is all zero when the first process has ended.
func (t *Tree) Usage() Usage {
	t.mu.Lock()
	defer t.mu.Unlock()
	members, u, ok := t.members()
	if !ok {
		return Usage{}
	}
	if t.changed(members) {
		t.shares = map[int]share{} // what a new process shares with another, that has no longer alone
	}
	known := true
	for pid, st := range members {
		s, err := t.share(pid, st)
		switch {
		case err == nil:
			u.Memory += s
		case !isGone(err):
			known = false
		}
		u.MemoryPeak = max(u.MemoryPeak, t.shares[pid].peak)
	}
	if !known {
		u.Memory = 0
	}
	u.MemoryPeak = max(u.MemoryPeak, u.Memory)
	return u
}

// members lists the processes that count, and what of the tree's processor
// time is known by them. It is false when the first process has ended.
func (t *Tree) members() (map[int]Stat, Usage, bool) {
	first, err := t.root.Stat(t.pid)
	if err != nil || first.Started() != t.started {
		return nil, Usage{}, false
	}
	u := Usage{CPU: first.waited()}
	members := map[int]Stat{}
	if t.self {
		u.CPU += first.own()
		members[t.pid] = first
	}
	for pid, st := range t.root.family(t.pid, first) {
		u.CPU += st.own() + st.waited()
		if !st.ended() {
			members[pid] = st
		}
	}
	first, err = t.root.Stat(t.pid)
	return members, u, err == nil && first.Started() == t.started // else the others were not below it
}

// changed reports whether the tree has other processes than those whose shares
// are known.
func (t *Tree) changed(members map[int]Stat) bool {
	if len(members) != len(t.shares) {
		return true
	}
	for pid, st := range members {
		if s, ok := t.shares[pid]; !ok || s.started != st.Started() {
			return true
		}
	}
	return false
}

// share returns a process's share of memory: what was read last and the growth
// since, or what is read now.
func (t *Tree) share(pid int, st Stat) (int64, error) {
	s, ok := t.shares[pid]
	grown := st.resident() - s.resident
	if ok && time.Since(s.read) < shareFresh && grown < shareGrowth && grown > -shareGrowth {
		return max(s.bytes+grown, 0), nil
	}
	bytes, err := readValue(t.root.process(pid, "smaps_rollup"), "Pss:")
	if err != nil {
		if isGone(err) {
			delete(t.shares, pid)
		}
		return 0, err
	}
	peak, _ := readValue(t.root.process(pid, "status"), "VmHWM:")
	t.shares[pid] = share{started: st.Started(), read: time.Now(), bytes: bytes, resident: st.resident(), peak: peak}
	return bytes, nil
}

// isGone reports whether a process is no more, or has given its memory back.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }
