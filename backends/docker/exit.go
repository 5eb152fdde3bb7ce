package docker

import (
	"context"
	"fmt"
	"time"

	"github.com/docker/docker/api/types/container"

	"claude-runner/backends"
)

const (
	sigKill = 9

	// oomPatience is how long the engine may take to note that the kernel
	// killed a process for its memory: that reaches it on another way than the
	// process's end.
	oomPatience = 500 * time.Millisecond
	oomInterval = 20 * time.Millisecond
)

// watch waits for the engine's word of the exit, and for the end of
// Spec.Timeout, counted from began.
func (s *sandbox) watch(status <-chan container.WaitResponse, lost <-chan error, began time.Time, timeout time.Duration) {
	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(time.Until(began.Add(timeout)))
		defer timer.Stop()
		expired = timer.C
	}
	for {
		select {
		case r := <-status:
			if r.Error != nil {
				s.lost = fmt.Errorf("engine: %s", r.Error.Message)
			}
			close(s.exited)
			return
		case s.lost = <-lost:
			close(s.exited)
			status, lost = nil, nil
		case <-expired:
			s.expire()
			expired = nil
		case <-s.ctx.Done():
			s.b.settle(status, lost)
			return
		}
	}
}

// settle takes the one value of a wait request that was cut short, which its
// goroutine needs to be rid of.
func (b *Backend) settle(status <-chan container.WaitResponse, lost <-chan error) {
	if status == nil {
		return
	}
	select {
	case <-status:
	case err := <-lost:
		b.log.Debug("a wait request was cut short", "error", err)
	}
}

// expire kills the container at the end of Spec.Timeout, be the engine there
// or not.
func (s *sandbox) expire() {
	for {
		err := s.signal(s.ctx, "SIGKILL", &s.timedOut)
		if err == nil || s.ctx.Err() != nil {
			return
		}
		s.log.Warn("a sandbox whose time is over could not be killed; trying again", "error", err)
		select {
		case <-time.After(retryInterval):
		case <-s.ctx.Done():
		}
	}
}

// signal sends the container a signal, and sets reached where that found it
// running.
func (s *sandbox) signal(ctx context.Context, name string, reached *bool) error {
	ctx, cancel := bounded(ctx, requestPatience)
	defer cancel()
	s.ending.Lock()
	defer s.ending.Unlock()
	err := s.b.cli.ContainerKill(ctx, s.handle.ID, name)
	switch {
	case err == nil:
		*reached = true
		return nil
	case isGone(err):
		return nil
	}
	return s.b.engineError(ctx, "send "+name, err)
}

// exitAfter is the exit of a container that has ended.
func (s *sandbox) exitAfter(c container.InspectResponse) (backends.Exit, error) {
	if c.State.Status == container.StateCreated {
		return backends.Exit{}, fmt.Errorf("its container was made but never started: %s", c.State.Error)
	}
	exit := readExit(c.State.ExitCode)
	s.ending.Lock()
	exit.Stopped, exit.TimedOut = s.stopped, s.timedOut && exit.Signal == sigKill
	s.ending.Unlock()
	if exit.Signal == sigKill && !exit.Stopped && !exit.TimedOut {
		exit.OOMKilled = s.oomKilled(c)
		exit.TimedOut = !exit.OOMKilled && s.outlived(c)
	}
	return exit, nil
}

// readExit reads the engine's exit code: its init process ends with 128+n where
// signal n ended the main process.
func readExit(code int) backends.Exit {
	if code > 128 && code <= 128+64 {
		return backends.Exit{Code: -1, Signal: code - 128}
	}
	return backends.Exit{Code: code}
}

// outlived reports whether the container lived for as long as it might, so that
// an earlier runner will have killed it.
func (s *sandbox) outlived(c container.InspectResponse) bool {
	rec, _, _ := s.b.readLabels(c.ID, c.Config.Labels)
	return rec.Timeout > 0 && parseTime(c.State.FinishedAt).Sub(parseTime(c.State.StartedAt)) >= rec.Timeout
}

// oomKilled reports whether the kernel killed a process of the container for
// its memory, and waits a moment for the engine to know.
func (s *sandbox) oomKilled(c container.InspectResponse) bool {
	for deadline := time.Now().Add(oomPatience); !c.State.OOMKilled; {
		if c.HostConfig.Memory == 0 || time.Now().After(deadline) {
			return false
		}
		select {
		case <-time.After(oomInterval):
		case <-s.ctx.Done():
			return false
		}
		var err error
		if c, err = s.inspect(s.ctx); err != nil {
			return false
		}
	}
	return true
}

// inspect asks the engine for the container.
func (s *sandbox) inspect(ctx context.Context) (container.InspectResponse, error) {
	return s.b.inspect(ctx, s.handle.ID)
}

func isRunning(c container.InspectResponse) bool { return c.State.Running }

// parseTime reads the engine's time, which is zero where it is none.
func parseTime(text string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, text)
	return t
}
