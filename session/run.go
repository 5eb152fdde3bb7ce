package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"claude-runner/agent"
	"claude-runner/backends"
)

// attempt is one task being run.
type attempt struct {
	m         *Manager
	job       *job
	live      *live
	profile   Profile
	session   Session
	mask      masker
	upstreams []agent.ModelAPI // where model calls go
	proc      *process         // the agent at work; nil before it starts
	told      int64            // events of its turn that an earlier process stored
	result    Result

	counted  *agent.Totals // by the gateway, at the turn's end
	refused  int64         // the last agent.Refusal that was seen
	refusals int64         // those of this task that were told

	begun time.Time // of the attempt, on the clock that does not jump

	temperature Temperature
	starting    time.Time     // when the task began to wait for proc
	waited      time.Duration // of that, for others to boot
	step        int64         // events of proc's turn so far
	exited      bool          // proc ended in its turn

	unwritten error // why the task could not be written down, which had begun before
}

// cleanUpTimeout bounds what must be done after a task's own context has ended.
const cleanUpTimeout = 30 * time.Second

// run takes a task from the queue's head to its end.
func (m *Manager) run(l *live, j *job) {
	a := &attempt{m: m, job: j, live: l, begun: time.Now()}
	started := later(m.opts.Now(), j.task.CreatedAt)
	begin := func(t *Task) { t.State, t.StartedAt = TaskStarting, started }
	event := Event{TaskID: j.task.ID, Agent: j.task.Agent, Event: agent.Event{Type: EventTaskStart}}
	if r := j.record; r != nil {
		m.change(j, begin)
		r.events = append(r.events, event)
	} else {
		m.updateSoon(j, begin, event)
		m.tell(func(o Observer) { o.TaskStarted(j.task) })
	}
	answer, err := a.execute(j.ctx)
	a.finish(answer, err)
}

// finish writes the task's end and clears up behind it. A task that the runner
// left while it ran has no end yet.
func (a *attempt) finish(answer agent.Result, err error) {
	unwritten := a.recorded()
	if p := a.job.offered; p != nil { // the task did not come so far
		a.m.stop(p)
	}
	if unwritten != nil {
		a.abandon()
		return
	}
	if errors.Is(err, agent.ErrDetached) {
		return
	}
	a.collect(answer, time.Since(a.begun))
	err = a.meter(err)
	state := a.judge(err)
	turns := 0
	if state == TaskSucceeded {
		turns = 1
	} else if p := a.proc; p != nil && p.conv.Alive() {
		a.sweep(p) // what is left need not stay until the agent has ended
	}
	a.m.end(a.job, state, a.result, answer.AgentID, turns)
	a.settle(err)
}

// execute runs the task and returns what the agent said. Its error is a
// context's cause, an *agent.Error, an *Error, or a backend's.
func (a *attempt) execute(ctx context.Context) (agent.Result, error) {
	if err := a.load(ctx); err != nil {
		return agent.Result{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, a.profile.Timeout, errTimedOut)
	defer cancel()

	resume := a.session.AgentID
	answer, err := a.turn(ctx, resume)
	if e, ok := errors.AsType[*agent.Error](err); ok && e.Code == agent.CodeMemoryLost && a.session.Turns == 0 && resume != "" {
		// The first turns were cut off before the agent wrote anything down.
		a.settle(err)
		answer, err = a.turn(ctx, "")
	}
	return answer, err
}

// load reads what the task needs: its profile, its session, the credentials.
func (a *attempt) load(ctx context.Context) error {
	task := a.job.task
	profiles := a.m.Profiles()
	profile, ok := profiles.ByName[task.Agent]
	if !ok {
		return errorf(CodeNoAgent, fmt.Sprintf("agent %q is no longer in the configuration, which has %s", task.Agent, profiles.names()))
	}
	a.profile = profile
	var err error
	if a.session, err = a.m.storedSession(ctx, a.live); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return storageError("read session", err)
	}
	if a.upstreams, err = a.m.opts.ModelAPIs(); err != nil {
		return &Error{Code: CodeNoCredentials, Message: err.Error(), Err: err}
	}
	a.mask = a.m.masks.of(secretValues(a.upstreams, profile.Profile, task.Request.Env))
	return nil
}

// turn gives the message to an agent that stands ready, or to a new one.
func (a *attempt) turn(ctx context.Context, resume string) (agent.Result, error) {
	a.awaitAgent(StartCold)
	p, err := a.take(ctx, resume)
	if err != nil {
		return agent.Result{}, err
	}
	if p == nil {
		return a.coldTurn(ctx, resume)
	}
	a.takeOn(p)
	written := a.hasProcess(resume)
	opened := opening(ctx, p.lease, a.letOut)
	written() // first: who has submitted the task waits for that, and not for the gateway
	if err := errors.Join(<-opened, a.unwritten); err != nil {
		return agent.Result{}, err
	}
	beginning, err := a.m.admission.beginTurn(ctx, a.temperature == StartWarm)
	if err != nil {
		return agent.Result{}, err
	}
	defer beginning.end()
	answer, err := a.converse(ctx, agent.Turn{}, beginning.asked)
	if a.exited && a.step == 0 {
		// It had ended while it waited, and nobody had seen it.
		a.settle(err)
		return a.coldTurn(ctx, resume)
	}
	return answer, err
}

// coldTurn gives the message to an agent that is started for it.
func (a *attempt) coldTurn(ctx context.Context, resume string) (agent.Result, error) {
	a.temperature = StartCold
	if err := a.recorded(); err != nil {
		return agent.Result{}, err
	}
	booted, err := a.admitted(ctx)
	if err != nil {
		return agent.Result{}, err
	}
	defer booted()
	b := a.boot(resume)
	p, err := b.start(ctx)
	if err != nil {
		a.result.Warnings = append(a.result.Warnings, b.warnings...)
		return agent.Result{}, err
	}
	a.result.Warnings = append(a.result.Warnings, p.warnings...)
	a.proc = p
	a.hasProcess(resume)()
	return a.converse(ctx, agent.Turn{}, booted)
}

// boot is the start of the task's agent.
func (a *attempt) boot(resume string) *boot {
	task := a.job.task
	return &boot{
		m: a.m, profile: a.profile, upstreams: a.upstreams, mask: a.mask,
		name: "task-" + task.ID, folder: task.SessionID, session: task.SessionID, task: task.ID,
		backend: task.Request.Backend, env: task.Request.Env, resume: resume,
		onPull: a.pulling, letOut: a.letOut,
	}
}

// admitted waits until the task's agent may boot. Where that takes a while, the
// session's stream says so.
func (a *attempt) admitted(ctx context.Context) (booted func(), err error) {
	begun := time.Now()
	leave, err := a.m.admission.enter(ctx, a.job.task.Owner, func(ahead int) {
		a.status(agent.Status{Phase: "boot", Ahead: &ahead, Message: fmt.Sprintf("as many agents boot as may at a time (limits.boots), and %d more go before this one", ahead)})
	})
	if err != nil {
		return nil, err
	}
	a.waited = time.Since(begun)
	return sync.OnceFunc(leave), nil
}

func (a *attempt) status(s agent.Status) {
	a.emit(Event{Event: a.mask.event(agent.Event{Type: agent.EventStatus, Status: &s})})
}

func (a *attempt) pulling(p backends.PullProgress) {
	a.status(agent.Status{Phase: "pull", Message: p.Image + ": " + p.Status, Current: p.Current, Total: p.Total})
}

// hasProcess writes down where the task runs. Its agent is not to have the message
// before that is written, which written waits for.
func (a *attempt) hasProcess(resume string) (written func()) {
	a.result.Resumed = resume != ""
	return a.updating(func(t *Task) {
		t.State, t.Backend, t.Sandbox, t.TurnFrom = TaskRunning, a.proc.backend, a.proc.sandbox.Handle().Name, a.proc.conv.Offset()
	})
}

// awaitAgent and hasAgent tell observers how long the task waits for its agent.
func (a *attempt) awaitAgent(t Temperature) {
	a.temperature, a.starting = t, time.Now()
	if a.job.record == nil { // else it is told when the task is written down
		a.m.tell(func(o Observer) { o.AgentStarting(a.job.task) })
	}
}

func (a *attempt) hasAgent() {
	start := Start{Temperature: a.temperature, Took: time.Since(a.starting), Waited: a.waited}
	a.m.tell(func(o Observer) { o.AgentStarted(a.job.task, start) })
}

// converse gives the task's message to the agent and tells what it does. asked
// is called when the agent has asked its model, and may be again.
func (a *attempt) converse(ctx context.Context, t agent.Turn, asked func()) (agent.Result, error) {
	t.Message, t.Context, t.Asked = a.job.task.Request.Message, a.job.task.Request.Context, asked
	ctx, watched := a.watch(ctx)
	defer watched()
	mask := eventMask{masker: a.mask}
	a.step, a.exited = 0, false
	defer a.watchRefusals()()
	answer, err := a.proc.conv.Turn(ctx, t, func(e agent.Event) {
		if e.Type != agent.EventInit { // by which its work only begins
			asked()
		}
		if a.step == 0 {
			a.hasAgent()
		}
		// Each of the agent's events has two steps, whatever the mask makes of
		// it: one for the text that comes before it, one for itself.
		before, now := mask.next(e)
		a.tellStep(a.step+1, before)
		a.step += 2
		a.tellStep(a.step, now)
	})
	if !errors.Is(err, agent.ErrDetached) {
		a.tellStep(a.step+1, mask.rest())
	}
	if over := a.overLimit(ctx); over != nil && err != nil {
		return answer, over
	}
	if e, ok := errors.AsType[*agent.Error](err); ok && e.Code == agent.CodeAgentExited {
		a.exited, err = true, a.whyExited(e)
	}
	return answer, err
}

// tellStep tells an event of the agent's, if there is one and no earlier process
// has told it.
func (a *attempt) tellStep(step int64, e *agent.Event) {
	if e == nil || step <= a.told {
		return
	}
	event := Event{Event: *e, step: step}
	if e.Type == agent.EventInit {
		event.Backend = a.proc.backend
	}
	a.emit(event)
}

// whyExited says what the backend knows of an agent that ended before its
// answer.
func (a *attempt) whyExited(e *agent.Error) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
	defer cancel()
	exit, err := a.proc.sandbox.Wait(ctx)
	stderr := a.proc.stderr()
	switch {
	case err != nil:
		return errorf(CodeSandbox, fmt.Sprintf("the sandbox was lost: %v%s", err, stderr))
	case exit.OOMKilled:
		return errorf(CodeOutOfMemory, fmt.Sprintf("the sandbox used more than its %v of memory and was killed; raise agents.%s.limits.memory", a.profile.Limits.Memory, a.profile.Name))
	case exit.TimedOut:
		return errTimedOut
	case exit.Signal != 0:
		return errorf(CodeSandboxKilled, fmt.Sprintf("the agent was killed by signal %d before its answer%s", exit.Signal, stderr))
	default:
		return &agent.Error{Code: e.Code, Message: fmt.Sprintf("the agent ended with exit code %d before its answer%s", exit.Code, stderr)}
	}
}

// collect keeps what is known of the task's outcome, also of a failed one.
func (a *attempt) collect(answer agent.Result, duration time.Duration) {
	r := &a.result
	defer func() { a.result = a.mask.result(a.result) }()
	r.Text, r.Model, r.Tools, r.Turns = answer.Text, answer.Model, answer.Tools, answer.Turns
	r.Usage, r.CostUSD, r.Duration = answer.Usage, answer.CostUSD, duration
	if a.profile.Source == nil {
		return
	}
	output, err := a.profile.Source.ParseOutput(answer)
	r.Output = output
	if err != nil {
		r.OutputError = err.Error()
	}
}

// judge turns the error that ended the task into its state and its failure.
func (a *attempt) judge(err error) TaskState {
	if err == nil {
		return TaskSucceeded
	}
	a.result.Output, a.result.OutputError = nil, ""
	state, failure := classify(err, a.profile.Timeout)
	failure.Message = a.mask.apply(failure.Message)
	a.result.Error = &failure
	if failure.Code == CodeInternal || failure.Code == CodeStorage {
		a.m.log.Error("task failed", "task", a.job.task.ID, "session", a.job.task.SessionID, "error", a.mask.apply(err.Error()))
	}
	return state
}

// classify returns the state and the failure that an error means.
func classify(err error, timeout time.Duration) (TaskState, Failure) {
	if e, ok := errors.AsType[*agent.Error](err); ok {
		if e.Code == agent.CodeBudget {
			return TaskBudgetExceeded, Failure{CodeBudget, e.Message}
		}
		return TaskFailed, Failure{Code(e.Code), e.Message}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		if e.Code == CodeBudget {
			return TaskBudgetExceeded, Failure{e.Code, e.Message}
		}
		return TaskFailed, Failure{e.Code, e.Message}
	}
	switch {
	case errors.Is(err, errAborted):
		return TaskAborted, Failure{CodeAborted, "aborted on request"}
	case errors.Is(err, errTimedOut):
		return TaskTimedOut, Failure{CodeTimedOut, fmt.Sprintf("not done within the agent's timeout of %v", timeout)}
	case errors.Is(err, errInterrupted):
		return TaskFailed, Failure{CodeInterrupted, "the runner ended while the task ran, and its sandbox is gone; submit it again"}
	case errors.Is(err, agent.ErrInvalidLaunch), errors.Is(err, agent.ErrEmptyMessage):
		return TaskFailed, Failure{Code(agent.CodeAgentFailed), err.Error()}
	case errors.Is(err, backends.ErrImageNotFound):
		return TaskFailed, Failure{CodeImage, err.Error()}
	default:
		return TaskFailed, Failure{CodeSandbox, err.Error()}
	}
}

// sweep ends what the task's tools have left running.
func (a *attempt) sweep(p *process) {
	if len(a.result.Tools) > 0 {
		p.in.control(backends.ControlSweep)
	}
}

// settle keeps the agent for the next message, or ends it and all it started.
// What went beyond its limits has no time to go on.
func (a *attempt) settle(err error) {
	p := a.proc
	if p == nil {
		return
	}
	a.proc = nil
	if err == nil && p.conv.Alive() && a.stays(p) {
		return
	}
	if c := CodeOf(err); c == CodeOutputLimit || c == CodeDiskLimit {
		a.m.stopSandbox(p.backend, p.sandbox, 0)
	}
	a.m.stop(p)
}

func (a *attempt) emit(e Event) {
	e.TaskID = a.job.task.ID
	a.m.tell(func(o Observer) { o.Event(a.job.task, e) })
	a.m.emit(a.job.task.SessionID, e)
}

// emit hands an event to the log. It fails only when the log is closed: the
// task is left to the next Open then, which tells what is not told.
func (m *Manager) emit(sessionID string, e Event) {
	if err := m.events.Append(sessionID, e); err != nil {
		m.log.Debug("event not logged", "session", sessionID, "type", e.Type, "error", err)
	}
}

// updating changes a task that has not ended, in memory and in the store, whose
// part written waits for. One that has begun before it was written down is written
// so; where it can not be, unwritten says why.
func (a *attempt) updating(change func(*Task)) (written func()) {
	begun := a.job.task
	t := a.m.change(a.job, change)
	if a.job.record != nil {
		return a.begins(t, begun)
	}
	wait := a.m.events.Begin(t.SessionID, Change{Update: &t}, false)
	return func() { a.m.changed(t, wait(), nil) }
}

// updateSoon is updating for what a crash may forget: nobody waits until the store
// has it.
func (m *Manager) updateSoon(j *job, change func(*Task), events ...Event) {
	t := m.change(j, change)
	m.changed(t, m.events.Later(t.SessionID, Change{Update: &t}, events...), events)
}

func (m *Manager) change(j *job, change func(*Task)) Task {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&j.task)
	return j.task
}

func (m *Manager) changed(t Task, err error, events []Event) {
	if err != nil {
		m.log.Error("task state could not be written", "task", t.ID, "state", t.State, "error", err)
	}
	for _, e := range events {
		m.tell(func(o Observer) { o.Event(t, e) })
	}
}

// endUnstarted ends a job that was taken out of the queue.
func (m *Manager) endUnstarted(j *job, state TaskState, f Failure) {
	m.end(j, state, Result{Error: &f}, "", 0)
	close(j.gone)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.letGo(m.live[j.task.SessionID])
}

// end writes a task's end with the event that tells it, and then wakes who
// waits for it.
func (m *Manager) end(j *job, state TaskState, r Result, agentID string, turns int) {
	t := j.task
	t.State, t.Result, t.EndedAt = state, r, later(m.opts.Now(), t.CreatedAt, t.StartedAt)
	delivery := m.delivery(t)
	t.Request.Env, t.Request.Webhook = nil, nil
	end := Ending{Task: t, AgentID: agentID, Turns: turns, Delivery: delivery}
	event := endEvent(t)
	err := m.events.Write(t.SessionID, Change{End: &end}, false, event)
	if err != nil {
		m.log.Error("task's end could not be written", "task", t.ID, "state", t.State, "error", err)
		return // the next Open finds it without an end
	}
	if delivery != nil {
		m.wakeSender()
	}
	m.mu.Lock()
	j.task = t
	delete(m.jobs, t.ID)
	m.noteEnd(end)
	m.mu.Unlock()
	m.tell(func(o Observer) {
		o.Event(t, event)
		o.TaskEnded(t)
	})
	close(j.done)
	j.cancel(nil)
	m.forgetMeter(t.ID)
}

// later returns now in UTC, or the last of the moments that were before it: a
// clock that was set back does not turn a task's life around.
func later(now time.Time, moments ...time.Time) time.Time {
	now = now.UTC()
	for _, t := range moments {
		if t.After(now) {
			now = t
		}
	}
	return now
}
