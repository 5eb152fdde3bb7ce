package inside

import (
	"syscall"
	"time"
)

// restTime bounds how long the helper looks whether all has come to rest: what
// is sent to the agent meanwhile waits.
const restTime = 50 * time.Millisecond

// The waits between two looks at processes grow.
const (
	firstLook = 100 * time.Microsecond
	lastLook  = 5 * time.Millisecond
)

// rest stops the agent and all that descends from it, until awake.
func (a *agent) rest() {
	if !a.ending && len(a.stopped) == 0 {
		a.stopped = stopTree(a.pid)
	}
}

// awake wakes what rest has stopped, the agent first.
func (a *agent) awake() {
	for _, pid := range a.stopped {
		_ = syscall.Kill(pid, syscall.SIGCONT) // it may have been killed
	}
	a.stopped = nil
}

// An agent that has been woken has at least the shorter time, and at most the
// longer one, for itself, before it is passed anything: its timers are all due.
// A JavaScript runtime that finds a message there as well collects garbage in the
// midst of its work, and takes twice the time for both.
const (
	wakeTime     = 2 * time.Millisecond
	wakePatience = 50 * time.Millisecond
)

// settle waits until an agent that was woken then has nothing more to do.
func (a *agent) settle(woken time.Time) {
	deadline := woken.Add(wakePatience)
	for look := woken.Add(wakeTime); time.Now().Before(deadline); look = time.Now().Add(wakeTime / 4) {
		time.Sleep(time.Until(look))
		if s, _ := stateOf(a.pid); s != running {
			return
		}
	}
}

// stopTree stops root and its descendants, and returns what it has stopped. What
// others had stopped before is theirs to wake, but for root. A process is stopped
// when its parent has come to a halt: one that starts a program by vfork(2) waits
// for it in the kernel, where no stop reaches it, so the program has to begin.
// What does not halt in time is left to it, and what is below it is stopped.
func stopTree(root int) []int {
	var stopped []int
	seen := map[int]bool{}
	deadline := time.Now().Add(restTime)
	for wait := firstLook; ; {
		late := time.Now().After(deadline)
		fresh, moving := false, false
		still := map[int]bool{}
		for _, pid := range append([]int{root}, descendants(root, 0)...) {
			state, parent := stateOf(pid)
			still[pid] = state == halted || state == ended
			switch {
			case seen[pid] || pid != root && !still[parent] && !late:
				moving = moving || !still[pid]
				continue
			case state == halted && pid != root:
			case syscall.Kill(pid, syscall.SIGSTOP) == nil:
				stopped = append(stopped, pid)
			}
			seen[pid], fresh = true, true
		}
		if late || !fresh && !moving {
			return stopped
		}
		if !fresh {
			time.Sleep(wait)
			wait = min(2*wait, lastLook)
		}
	}
}

// state is what a process does.
type state int

const (
	running state = iota // or it waits for a processor
	waiting              // for something to do
	halted               // by a signal
	ended                // or it is being debugged: it does not run by itself
)
