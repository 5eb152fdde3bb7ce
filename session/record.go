package session

// record is what the store is to be told of a task that was submitted.
//
// A task whose agent waits begins before it is written down. The store then gets
// to know at once that it is there and where it runs, before the agent has the
// message, and the task waits for the store once instead of twice.
type record struct {
	change  Change
	events  []Event
	arrival Arrival
	written chan error // gets whether it is
}

func newRecord(s Submission, sess Session, j *job) *record {
	return &record{
		change:  Change{Create: &Creation{Session: sess, Task: j.task, Key: s.key(j.task)}, Audit: s.audited(j.task, auditTaken)},
		events:  []Event{j.queuedEvent()},
		arrival: Arrival{TraceParent: s.TraceParent},
		written: make(chan error, 1),
	}
}

// beginAtOnce begins a task that is not written down, if its session is stored and
// its agent waits, and nothing that the task would wait for is in its way. An
// idempotency key is, which another session may have taken. Whether the task is
// written, the record tells.
func (m *Manager) beginAtOnce(l *live, j *job, r *record) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := j.task
	if m.closing || l.known.session == nil || l.hot == nil || l.pending != nil || l.current != nil || j.ahead > 0 ||
		r.change.Create.Key != nil || m.total >= m.opts.Concurrency || m.agentFull(t.Agent) || m.ownerFull(t.Owner) {
		return false
	}
	j.record, j.offered, l.hot = r, l.hot, nil
	j.offered.unkeep()
	m.unreserve(j)
	m.begin(l, j, func() { m.run(l, j) })
	return true
}

// write hands the record to the store, with the task as it is now. Observers get
// to know it as it was submitted.
func (m *Manager) write(t Task, r *record) (written func() error) {
	submitted := r.change.Create.Task
	r.change.Create.Task = t
	wait := m.events.Begin(t.SessionID, r.change, true, r.events...)
	return func() error {
		err := wait()
		if err == nil {
			m.tell(func(o Observer) {
				o.TaskAdmitted(submitted, r.arrival)
				for _, e := range r.events {
					o.Event(submitted, e)
				}
			})
		}
		r.written <- err
		return err
	}
}

// recorded writes the task down, if that is yet to be done.
func (a *attempt) recorded() error {
	if a.job.record != nil {
		a.updating(func(*Task) {})()
	}
	return a.unwritten
}

// begins is updating for a task that is yet to be written down.
func (a *attempt) begins(t Task, begun Task) (written func()) {
	wait := a.m.write(t, a.job.record)
	a.job.record = nil
	return func() {
		if a.unwritten = wait(); a.unwritten != nil {
			return
		}
		a.m.tell(func(o Observer) {
			o.TaskStarted(begun)
			if !a.starting.IsZero() {
				o.AgentStarting(begun)
			}
		})
	}
}

// abandon leaves a task that could not be written down as if it had not been
// submitted: its agent has not heard of it.
func (a *attempt) abandon() {
	a.settle(nil)
	a.m.forgetMeter(a.job.task.ID)
	a.job.cancel(nil)
}
