package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"claude-runner/agent"
	"claude-runner/backends"
)

const (
	// restoreTimeout bounds what Open waits for one backend.
	restoreTimeout = 15 * time.Second
	// orphansAtOnce is how many sandboxes of no task are stopped at a time.
	orphansAtOnce = 8
	// engineReturn is how long a task that ran waits for an engine that does
	// not answer, before it counts as interrupted.
	engineReturn = 2 * time.Minute
	engineRetry  = time.Second
)

// errInterrupted ends a task whose sandbox is gone with the earlier process.
var errInterrupted = errors.New("interrupted")

// restore brings back what an earlier process of this data folder left. Tasks
// that waited, or were starting, are queued; those that ran are taken over;
// sandboxes of neither are removed.
func (m *Manager) restore(ctx context.Context) error {
	tasks, err := m.opts.Store.Unfinished(ctx)
	if err != nil {
		return fmt.Errorf("read unfinished tasks: %w", err)
	}
	ran := map[string]Task{} // by sandbox
	for _, t := range tasks {
		if t.State == TaskRunning {
			ran[t.Sandbox] = t
		}
	}
	m.removeOrphans(ctx, ran)
	if err := m.closeLeases(ctx, ran); err != nil {
		return err
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	var taken []*job // over
	for _, t := range tasks {
		running := t.State == TaskRunning
		if t.State == TaskStarting { // the agent was not given its message
			t.State, t.Backend, t.Sandbox = TaskQueued, t.Request.Backend, ""
		}
		j := m.reserve(t)
		m.tell(func(o Observer) { o.TaskAdmitted(t, Arrival{Restored: true}) })
		if j.ready = !running; running {
			m.unreserve(j)
			taken = append(taken, j)
		}
	}
	for _, j := range taken {
		l := m.live[j.task.SessionID]
		m.begin(l, j, func() { m.takeOver(l, j) })
	}
	m.dispatch()
	return nil
}

// takeOver goes on with a task that ran when the earlier process ended: its
// agent's output is read again from the turn's beginning, and what was told
// already is not told twice.
func (m *Manager) takeOver(l *live, j *job) {
	// The clock may have been set back since.
	ran := max(0, m.opts.Now().Sub(j.task.StartedAt))
	a := &attempt{m: m, job: j, live: l, begun: time.Now().Add(-ran)}
	answer, err := a.recover(j.ctx)
	if errors.Is(err, errInterrupted) && a.again() {
		a.told = 0
		a.updating(func(t *Task) { t.State = TaskStarting })()
		answer, err = a.execute(j.ctx)
	}
	a.finish(answer, err)
}

// again reports whether an interrupted task may run once more: where its agent
// had not begun, or its profile says so.
func (a *attempt) again() bool {
	if err := a.load(a.job.ctx); err != nil {
		return false
	}
	told, err := a.m.opts.Store.LastStep(a.job.ctx, a.job.task.ID)
	return err == nil && (told == 0 || a.profile.RetryInterrupted)
}

// recover is execute for a task whose agent was given its message already.
func (a *attempt) recover(ctx context.Context) (agent.Result, error) {
	a.awaitAgent(StartRecovered)
	task := a.job.task
	sandbox, err := a.find(ctx)
	if err == nil {
		err = a.load(ctx)
	}
	if err == nil {
		a.told, err = a.m.opts.Store.LastStep(context.WithoutCancel(ctx), task.ID)
	}
	if err == nil {
		a.proc, err = a.adopt(ctx, sandbox)
	}
	if err != nil {
		if !errors.Is(err, agent.ErrDetached) {
			if sandbox != nil {
				a.m.stopSandbox(task.Backend, sandbox, stopGrace)
			}
			a.m.closeLease(&lease{id: task.Sandbox})
		}
		return agent.Result{}, err
	}
	ctx, cancel := context.WithDeadlineCause(ctx, a.begun.Add(a.profile.Timeout), errTimedOut)
	defer cancel()
	a.result.Resumed = a.session.AgentID != ""
	answer, err := a.converse(ctx, agent.Turn{Sent: true}, func() {})
	if e, ok := errors.AsType[*agent.Error](err); ok && e.Code == agent.CodeAgentExited && a.told == 0 && answer.Turns == 0 {
		// The earlier process ended before the message was through.
		a.settle(err)
		return answer, errInterrupted
	}
	return answer, err
}

// adopt makes a process of a sandbox that was taken over. Its agent is asked
// nothing more: its input may be closed.
func (a *attempt) adopt(ctx context.Context, sandbox backends.Sandbox) (*process, error) {
	task := a.job.task
	b, _ := a.m.opts.Backends.Backend(task.Backend)
	capabilities := b.Capabilities()
	boot := a.boot(a.session.AgentID)
	boot.name = task.Sandbox
	launch := boot.launch(capabilities, false)
	launch.Recovered, launch.TurnFrom = true, task.TurnFrom
	way, err := a.letOutAgain(ctx, capabilities, sandbox.Handle().Name, launch.Run)
	if err != nil {
		return nil, err
	}
	p := boot.newProcess(task.Backend, sandbox, launch, way)
	return p, nil
}

// find takes over the sandbox in which the session's agent runs. While the
// engine does not answer it waits.
func (a *attempt) find(ctx context.Context) (backends.Sandbox, error) {
	task := a.job.task
	b, ok := a.m.opts.Backends.Backend(task.Backend)
	if !ok {
		return nil, errInterrupted
	}
	for deadline := time.Now().Add(engineReturn); ; {
		// A task that is aborted needs its sandbox too, to be stopped.
		sandbox, err := a.findOn(a.m.root, b)
		if err != nil && a.m.root.Err() != nil {
			return nil, context.Cause(a.m.root)
		}
		if !errors.Is(err, backends.ErrUnavailable) || time.Now().After(deadline) {
			return sandbox, err
		}
		a.m.log.Warn("waiting for the engine of a task that ran", "task", task.ID, "backend", b.Name(), "error", err)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(engineRetry):
		}
	}
}

func (a *attempt) findOn(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
	task := a.job.task
	if _, err := a.m.health.check(ctx, b); err != nil { // fills in the capabilities, too
		return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	handles, err := b.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes of backend %s: %w", b.Name(), err)
	}
	for _, h := range handles {
		if h.Name != task.Sandbox {
			continue
		}
		sandbox, err := b.Recover(ctx, h, 0)
		if errors.Is(err, backends.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("take over sandbox %s of backend %s: %w", h.Name, b.Name(), err)
		}
		return sandbox, nil
	}
	return nil, errInterrupted
}

// removeOrphans stops the sandboxes of this data folder that no running task
// has: keep has those by sandbox. A backend that can't be asked keeps its own
// until the next start.
func (m *Manager) removeOrphans(ctx context.Context, keep map[string]Task) {
	var g errgroup.Group
	for _, name := range m.opts.Backends.Names() {
		g.Go(func() error {
			b, _ := m.opts.Backends.Backend(name)
			ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
			defer cancel()
			if err := removeOrphansOf(ctx, b, keep); err != nil {
				m.log.Warn("sandboxes of an earlier run may be left", "backend", name, "error", err)
			}
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
}

func removeOrphansOf(ctx context.Context, b backends.Backend, keep map[string]Task) error {
	handles, err := b.List(ctx)
	if errors.Is(err, backends.ErrUnavailable) {
		return nil // nothing runs on an engine that is not there
	}
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(orphansAtOnce)
	errs := make([]error, len(handles))
	for i, h := range handles {
		if keep[h.Name].Backend == b.Name() {
			continue
		}
		g.Go(func() error {
			// Its agent's input has ended with the earlier process: it may be about
			// to write down its memory.
			if err := backends.Remove(ctx, b, h, stopGrace); err != nil {
				errs[i] = fmt.Errorf("sandbox %s: %w", h.Name, err)
			}
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
	return errors.Join(errs...)
}
