package proc

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"
)

// Stat is /proc/PID/stat, cut into fields: proc(5) counts them from one.
type Stat []string

// tick is the kernel's USER_HZ, on every architecture that Go has.
const tick = time.Second / 100

// Stat reads a process's status.
func (r Root) Stat(pid int) (Stat, error) {
	data, err := os.ReadFile(r.process(pid, "stat"))
	if err != nil {
		return nil, err
	}
	// The second field is a name in parentheses, which may hold both and spaces.
	head, rest, ok := strings.Cut(string(data), "(")
	end := strings.LastIndex(rest, ")")
	if !ok || end < 0 {
		return nil, errors.New("unreadable process status")
	}
	return append(Stat{strings.TrimSpace(head), rest[:end]}, strings.Fields(rest[end+1:])...), nil
}

// Started tells a process from another that has had its id: the clock ticks
// between the system's start and its own.
func (s Stat) Started() string { return s.field(21) }

func (s Stat) ended() bool           { return s.field(2) == "Z" || s.field(2) == "X" } // and its parent has not noticed
func (s Stat) parent() int           { return int(s.number(3)) }
func (s Stat) own() time.Duration    { return tick * time.Duration(s.number(13)+s.number(14)) }
func (s Stat) waited() time.Duration { return tick * time.Duration(s.number(15)+s.number(16)) } // of children that have ended
func (s Stat) threads() int64        { return s.number(19) }
func (s Stat) resident() int64       { return s.number(23) * int64(os.Getpagesize()) }

// field returns a field by its index, which is one less than proc(5)'s number.
func (s Stat) field(i int) string {
	if i >= len(s) {
		return ""
	}
	return s[i]
}

func (s Stat) number(i int) int64 {
	n, _ := strconv.ParseInt(s.field(i), 10, 64)
	return n
}

// Processes lists this system's processes.
func (r Root) Processes() []int { return numbers(r.file("proc")) }

// Descendants lists the processes below pid. It looks at every process of the
// system, and misses none that is there all the while.
func (r Root) Descendants(pid int) []int {
	children := map[int][]int{}
	for _, p := range r.Processes() {
		if st, err := r.Stat(p); err == nil {
			children[st.parent()] = append(children[st.parent()], p)
		}
	}
	var out []int
	for todo := children[pid]; len(todo) > 0; todo = todo[1:] {
		out = append(out, todo[0])
		todo = append(todo, children[todo[0]]...)
	}
	return out
}

// family returns the processes below one, in a time that does not grow with
// the system. It may miss one whose sibling ends meanwhile.
func (r Root) family(pid int, first Stat) map[int]Stat {
	out := map[int]Stat{}
	todo, err := r.children(pid, first)
	if err != nil { // the kernel was built without these lists, or the process has ended
		todo = r.Descendants(pid)
	}
	for ; len(todo) > 0; todo = todo[1:] {
		p := todo[0]
		st, err := r.Stat(p)
		if err != nil {
			continue // it has ended
		}
		out[p] = st
		if children, err := r.children(p, st); err == nil {
			todo = append(todo, children...)
		}
	}
	return out
}

// children lists what the threads of a process have started.
func (r Root) children(pid int, st Stat) ([]int, error) {
	threads := []int{pid}
	if st.threads() > 1 {
		threads = numbers(r.process(pid, "task"))
	}
	var out []int
	for _, thread := range threads {
		data, err := os.ReadFile(r.process(pid, "task", strconv.Itoa(thread), "children"))
		if err != nil && thread == pid {
			return nil, err
		}
		for _, f := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(f); err == nil {
				out = append(out, child)
			}
		}
	}
	return out, nil
}

// numbers lists what of a folder's names are numbers.
func numbers(dir string) []int {
	d, err := os.Open(dir)
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
