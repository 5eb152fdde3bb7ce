package session

import (
	"context"
	"slices"

	"claude-runner/agent"
)

// live is what is in memory of a session that has tasks, an operation under
// way, or an agent that stays. Manager.mu guards all but lock.
type live struct {
	id      string
	lock    chan struct{} // one token: held by a submit, a reset or a delete
	users   int           // submits, operations and jobs that hold this entry
	current *job          // starting, running, or clearing up
	hot     *process      // an agent that waits for the session's next message
	pending *pending      // what that message waits for
	known   known
}

// job is a task on its way from submission to its end.
type job struct {
	task   Task // Manager.mu guards it while the job is not done
	ahead  int  // tasks of its session before it, when it was submitted
	ready  bool // written down: it may start
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the end is written, or the runner closes before its start
	gone   chan struct{} // closed when nothing of its sandbox is left, or it stays for the next task

	// Of a task that began at once, and for it alone.
	record  *record  // what is to be written; nil once it is on its way
	offered *process // its session's agent; nil once it is taken
}

// ended reports whether the task's end is written.
func (j *job) ended() bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
}

// awaitGone waits until nothing of the task's sandbox is left, or it stays for the
// next task.
func (j *job) awaitGone(ctx context.Context) error {
	select {
	case <-j.gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// enter holds the session for one submit or operation; others of the same
// session wait. Every enter has its leave.
func (m *Manager) enter(ctx context.Context, id string) (*live, error) {
	m.mu.Lock()
	l := m.hold(id)
	m.mu.Unlock()
	select {
	case l.lock <- struct{}{}:
		return l, nil
	case <-ctx.Done():
		m.mu.Lock()
		defer m.mu.Unlock()
		m.letGo(l)
		return nil, context.Cause(ctx)
	}
}

func (m *Manager) leave(l *live) {
	<-l.lock
	m.mu.Lock()
	defer m.mu.Unlock()
	m.letGo(l)
}

// hold returns the session's entry, made where there is none. m.mu is held,
// here and in all that follows.
func (m *Manager) hold(id string) *live {
	l := m.live[id]
	if l == nil {
		l = &live{id: id, lock: make(chan struct{}, 1)}
		m.live[id] = l
	}
	l.users++
	return l
}

func (m *Manager) letGo(l *live) {
	l.users--
	if l.users == 0 && l.hot == nil {
		delete(m.live, l.id)
	}
}

// reserve gives a task its place in the queue before it is written down, so
// that the queue's bound holds however many submits there are at once. m.mu is
// held.
func (m *Manager) reserve(t Task) *job {
	j := &job{task: t, done: make(chan struct{}), gone: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancelCause(m.root)
	l := m.hold(t.SessionID)
	if j.ahead = m.queuedLocked(t.SessionID); l.current != nil && !l.current.ended() {
		j.ahead++
	}
	m.waiting = append(m.waiting, j)
	m.jobs[t.ID] = j
	return j
}

// withdraw takes back the place of a task that could not be written.
func (m *Manager) withdraw(j *job) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unreserve(j)
	delete(m.jobs, j.task.ID)
	m.letGo(m.live[j.task.SessionID])
	j.cancel(nil)
}

func (m *Manager) unreserve(j *job) {
	m.waiting = slices.DeleteFunc(m.waiting, func(w *job) bool { return w == j })
}

// queuedEvent tells that a task has its place.
func (j *job) queuedEvent() Event {
	return Event{TaskID: j.task.ID, Agent: j.task.Agent, Position: &j.ahead, Event: agent.Event{Type: EventTaskQueued}}
}

// admit lets a task that is written down start when its turn comes.
func (m *Manager) admit(j *job) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j.ready = true
	if m.closing {
		m.postpone()
		return
	}
	m.dispatch()
}

// postpone leaves what waits to the next Open: it is queued in the store. Who
// waits for it is told. m.mu is held.
func (m *Manager) postpone() {
	for _, j := range m.unqueue(func(*job) bool { return true }) {
		delete(m.jobs, j.task.ID)
		m.letGo(m.live[j.task.SessionID])
		j.cancel(agent.ErrDetached)
		close(j.done)
	}
}

// dispatch starts every waiting task that the limits and its session allow:
// those first whose owner has the fewest that run, and of one owner in the order
// of submission.
func (m *Manager) dispatch() {
	for !m.closing && m.total < m.opts.Concurrency {
		j := m.next()
		if j == nil {
			return
		}
		m.unreserve(j)
		l := m.live[j.task.SessionID]
		m.begin(l, j, func() { m.run(l, j) })
	}
}

// next returns the task whose turn it is, or nil where none may start.
func (m *Manager) next() *job {
	var best *job
	for _, j := range m.waiting {
		if best != nil && m.owners[j.task.Owner] >= m.owners[best.task.Owner] {
			continue
		}
		if j.ready && m.live[j.task.SessionID].current == nil && !m.agentFull(j.task.Agent) && !m.ownerFull(j.task.Owner) {
			best = j
		}
	}
	return best
}

// ownerFull reports whether a key has as many tasks at work as it may.
func (m *Manager) ownerFull(owner string) bool {
	limit := m.keys.last(owner).Concurrency
	return limit > 0 && m.owners[owner] >= limit
}

// begin makes j the session's current job and runs do for it. m.mu is held.
func (m *Manager) begin(l *live, j *job, do func()) {
	l.current = j
	m.running[j.task.Agent]++
	m.owners[j.task.Owner]++
	m.total++
	m.tasks.Go(func() {
		defer m.finished(l, j)
		do()
	})
}

func (m *Manager) agentFull(name string) bool {
	limit := m.profiles.ByName[name].Concurrency
	return limit > 0 && m.running[name] >= limit
}

// finished gives back what a job held, once all that it started is gone.
func (m *Manager) finished(l *live, j *job) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.current = nil
	if !j.ended() { // left to the next Open
		delete(m.jobs, j.task.ID)
		close(j.done)
	}
	close(j.gone)
	m.running[j.task.Agent]--
	if m.owners[j.task.Owner]--; m.owners[j.task.Owner] == 0 {
		delete(m.owners, j.task.Owner)
	}
	m.total--
	m.letGo(l)
	m.checkDrained()
	m.dispatch()
}

// unqueue takes the waiting jobs that match out of the queue, but for those
// that are still being written down.
func (m *Manager) unqueue(match func(*job) bool) []*job {
	var out []*job
	m.waiting = slices.DeleteFunc(m.waiting, func(j *job) bool {
		if j.ready && match(j) {
			out = append(out, j)
			return true
		}
		return false
	})
	return out
}

func (m *Manager) queuedLocked(sessionID string) int {
	n := 0
	for _, j := range m.waiting {
		if j.task.SessionID == sessionID {
			n++
		}
	}
	return n
}

// checkDrained tells Close when the last task has ended.
func (m *Manager) checkDrained() {
	if m.closing && m.total == 0 {
		select {
		case <-m.drained:
		default:
			close(m.drained)
		}
	}
}
