package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
	"time"

	"claude-runner/agent"
	"claude-runner/backends"
)

// meteredOutput is a sandbox's standard output up to a limit. The engine keeps
// all of it on the disk, to be recovered: a sandbox that writes more is ended.
type meteredOutput struct {
	from  backends.Sandbox
	limit int64 // 0: none
	read  atomic.Int64
	over  atomic.Bool
}

func (o *meteredOutput) Read(p []byte) (int, error) {
	if o.over.Load() {
		return 0, io.EOF
	}
	n, err := o.from.Stdout().Read(p)
	if o.exceeds(o.read.Add(int64(n))) {
		// At once: it may be a process that no task waits for.
		ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
		defer cancel()
		_ = o.from.Stop(ctx, 0) // the task's end stops it again, and says why it could not
	}
	return n, err
}

func (o *meteredOutput) exceeds(written int64) bool {
	if o.limit == 0 || written <= o.limit {
		return false
	}
	o.over.Store(true)
	return true
}

// checkErrors counts standard error too, where the engine keeps all of it.
func (o *meteredOutput) checkErrors() bool {
	stderr, ok := o.from.Stderr().(interface{ Written() int64 })
	return ok && o.exceeds(o.read.Load()+stderr.Written())
}

// checkDisk is a *Error where the session's folders take more than they may, or
// that can not be told. What is not there yet takes nothing.
func (f folders) checkDisk(ctx context.Context, id string, p Profile) error {
	limit := int64(p.Limits.Disk)
	if limit == 0 {
		return nil
	}
	dir, err := f.open(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &Error{Code: CodeStorage, Message: "the session's folder could not be measured: " + err.Error(), Err: err}
	}
	defer dir.Close()
	used, err := diskUse(ctx, dir, limit)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errTooDeep):
		return overDisk(p, "the session's folders can not be measured: "+err.Error())
	case err != nil:
		return &Error{Code: CodeStorage, Message: "the session's folder could not be measured: " + err.Error(), Err: err}
	case used > limit:
		return overDisk(p, fmt.Sprintf("the session's folders take more than their %v of disk", agent.Bytes(limit)))
	}
	return nil
}

func overDisk(p Profile, what string) error {
	return errorf(CodeDiskLimit, what+"; reset or delete the session, or raise agents."+p.Name+".limits.disk")
}

const (
	// watchInterval is how often a running task's limits are looked at, at most.
	watchInterval = 500 * time.Millisecond
	// watchShare is how much of the time may go into that: one part in so many.
	watchShare = 10
)

// watch ends ctx when the task's session takes more of the disk than it may, or
// its sandbox has written too much to standard error. Where that was looked at a
// moment ago, for the turn before, it waits until the next look is due. The
// function ends the watching and waits for that.
func (a *attempt) watch(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-time.After(time.Until(a.proc.looked.Add(watchInterval))):
		case <-ctx.Done():
		}
		for ctx.Err() == nil {
			began := time.Now()
			a.proc.looked = began
			err := a.m.folders.checkDisk(ctx, a.job.task.SessionID, a.profile)
			if err == nil && a.proc.output.checkErrors() {
				err = a.tooMuchOutput()
			}
			switch {
			case err != nil && CodeOf(err) != CodeStorage:
				cancel(err)
				return
			case err != nil:
				a.m.log.Warn("a session's use of the disk is not known", "session", a.job.task.SessionID, "error", err)
			}
			select {
			case <-time.After(max(watchInterval, (watchShare-1)*time.Since(began))):
			case <-ctx.Done():
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-over
	}
}

// overLimit returns why watch, or its output's limit, has ended the turn.
func (a *attempt) overLimit(ctx context.Context) error {
	if a.proc.output.over.Load() {
		return a.tooMuchOutput()
	}
	if e, ok := errors.AsType[*Error](context.Cause(ctx)); ok {
		return e
	}
	return nil
}

func (a *attempt) tooMuchOutput() error {
	return errorf(CodeOutputLimit, fmt.Sprintf("the agent's process wrote more than its %v of output; raise agents.%s.limits.output if it has to",
		a.profile.Limits.Output, a.profile.Name))
}
