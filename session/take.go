package session

import "context"

// take returns an agent that stands ready for the task, or nil where one must be
// started: the one that the session has, or one of the profile's warm agents.
func (a *attempt) take(ctx context.Context, resume string) (*process, error) {
	p := a.job.offered
	if a.job.offered = nil; p == nil {
		var err error
		if p, err = a.m.takeHot(ctx, a.live); err != nil {
			return nil, err
		}
	}
	if p != nil {
		a.temperature = StartHot
		if p.fresh {
			a.temperature = StartWarm
		}
		if a.fits(p, resume) && a.movesIn(p) {
			return p, nil
		}
		if err := a.recorded(); err != nil {
			a.proc = p // which stays
			return nil, err
		}
		a.m.stop(p)
	}
	if resume != "" || a.session.Turns > 0 {
		return nil, nil
	}
	p = a.m.takeWarm(a.profile.Name, func(p *process) bool { return a.fits(p, "") })
	if p == nil {
		return nil, nil
	}
	if !a.movesIn(p) {
		a.m.stop(p)
		return nil, nil
	}
	a.temperature = StartWarm
	return p, nil
}

// movesIn reports whether the agent is in the session's folder now. It is not
// where the folder is there already, with files for the task.
func (a *attempt) movesIn(p *process) bool {
	if p.folder == a.job.task.SessionID {
		return true
	}
	err := a.m.moveIn(p, a.job.task.SessionID)
	if err != nil {
		a.m.log.Debug("a booted agent could not move into its session", "session", a.job.task.SessionID, "error", err)
	}
	return err == nil
}

// fits reports whether the task may go to an agent that waits, and gives it the
// task's environment.
func (a *attempt) fits(p *process, resume string) bool {
	r := a.job.task.Request
	if p.base != a.m.bases.of(a.profile, a.upstreams) || !p.conv.Alive() || r.Backend != "" && r.Backend != p.backend {
		return false
	}
	if !p.fresh {
		return p.env == envKey(r.Env)
	}
	if p.launch.Resume != resume {
		return false
	}
	ok, err := a.m.opts.Driver.SetEnv(p.launch, r.Env)
	if err != nil {
		a.m.log.Warn("a booted agent could not be given its task's environment; another is started", "task", a.job.task.ID, "error", err)
	}
	return ok && err == nil
}

// takeOn makes the process the task's.
func (a *attempt) takeOn(p *process) {
	p.env, p.mask, p.fresh = envKey(a.job.task.Request.Env), a.mask, false
	a.result.Warnings = append(a.result.Warnings, p.warnings...)
	a.proc = p
}
