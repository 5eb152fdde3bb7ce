package inside

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// sweepTime bounds a sweep: what is sent to the agent meanwhile waits.
const sweepTime = time.Second

// sweep ends what the agent has left behind, and says what it can not end.
func (a *agent) sweep() {
	if !a.reaps || !showsProcesses() {
		if !a.unswept {
			a.unswept = true
			fmt.Fprintf(os.Stderr, "%s: this system does not show what an agent leaves behind: nothing is swept\n", Name)
		}
		return
	}
	if n := endOrphans(a.pid); n > 0 {
		fmt.Fprintf(os.Stderr, "%s: %d processes that the agent has left behind are not ended after %v\n", Name, n, sweepTime)
	}
}

// endOrphans kills all descendants of this process but spared and its own, and
// returns how many it still sees at last. First it stops them, until there is no
// new one: what is stopped starts nothing, and for as long as it is not killed
// it counts against the sandbox's limit of processes.
func endOrphans(spared int) int {
	stopped := map[int]bool{}
	deadline := time.Now().Add(sweepTime)
	for wait := firstLook; ; {
		orphans := descendants(os.Getpid(), spared)
		late := time.Now().After(deadline)
		fresh := false
		for _, pid := range orphans {
			if !stopped[pid] {
				stopped[pid], fresh = true, true
				_ = syscall.Kill(pid, syscall.SIGSTOP)
			}
		}
		if fresh && !late {
			continue
		}
		for _, pid := range orphans {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(orphans) == 0 || late {
			return len(orphans)
		}
		time.Sleep(wait) // until they have ended, and agent.collect has collected them
		wait = min(2*wait, lastLook)
	}
}
