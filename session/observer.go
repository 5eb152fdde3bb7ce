package session

import "time"

// Observer is told what becomes of tasks: measurements and traces are made of
// it. Of one task it is told in the order of the methods below, TaskRefused
// aside; of different tasks from different goroutines at once. Its methods
// return at once, and call no method of the Manager. A task's message,
// environment and output are nobody's business but the client's: an Observer
// passes none of them on.
type Observer interface {
	// TaskRefused: a submission was not taken.
	TaskRefused(code Code)
	// TaskAdmitted: t is written down. It waits, or runs where t.State says so.
	TaskAdmitted(t Task, a Arrival)
	// TaskStarted: t has left the queue. It is not told of a task that ran when
	// an earlier process ended.
	TaskStarted(t Task)
	// AgentStarting: t waits for its agent. A task may need more than one.
	AgentStarting(t Task)
	// AgentStarted: t's agent has the message, and gave its first sign of life.
	AgentStarted(t Task, s Start)
	// Event: e is told in t's session. It comes between the calls above and
	// after TaskAdmitted.
	Event(t Task, e Event)
	// TaskEnded: t's end is written. A task that the Manager leaves to the next
	// process has none yet.
	TaskEnded(t Task)
}

// Arrival is how a task came.
type Arrival struct {
	TraceParent string // Submission.TraceParent
	Restored    bool   // an earlier process took it
}

// Start is how a task got its agent.
type Start struct {
	Temperature Temperature
	Took        time.Duration // since AgentStarting
	Waited      time.Duration // of that, for other agents to boot
}

// Temperature is how much of an agent was there when its task came.
type Temperature string

// The temperatures of a start.
const (
	StartCold      Temperature = "cold"      // a sandbox was started for it
	StartWarm      Temperature = "warm"      // the agent had booted ahead of its first task
	StartHot       Temperature = "hot"       // the agent was kept from the task before
	StartRecovered Temperature = "recovered" // an earlier process had started it, with the same task
)

// tell lets every Observer know.
func (m *Manager) tell(of func(Observer)) {
	for _, o := range m.opts.Observers {
		of(o)
	}
}
