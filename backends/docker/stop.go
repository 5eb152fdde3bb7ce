package docker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"claude-runner/backends"
)

const (
	// killPatience bounds the time from SIGKILL to the end of all streams.
	killPatience = 30 * time.Second

	// removePatience bounds the removal of a container that has ended.
	removePatience = time.Minute

	// drainStep and drainInterval are how quickly output that nobody reads is
	// taken in while a sandbox is stopped. A process that is dead leaves less
	// than one step of it in the engine.
	drainStep     = 2 << 20
	drainInterval = 50 * time.Millisecond
)

// stopping is one run of Stop's work, which callers join.
type stopping struct {
	kill func()        // ends the grace; may be called many times
	over chan struct{} // closed by kill
	done chan struct{} // closed when err is set
	err  error
}

// shorten ends the grace after that time at the latest.
func (r *stopping) shorten(grace time.Duration) {
	if grace <= 0 {
		r.kill()
		return
	}
	time.AfterFunc(grace, r.kill)
}

// Stop ends the container and removes it. The work goes on when ctx ends; a
// caller with a shorter grace makes it shorter for all.
func (s *sandbox) Stop(ctx context.Context, grace time.Duration) error {
	run, err := s.beginStop(grace)
	if err != nil {
		return fmt.Errorf("stop sandbox %s: %w", s.handle.Name, err)
	}
	select {
	case <-run.done:
		return run.err
	case <-ctx.Done():
		return fmt.Errorf("stop sandbox %s: %w", s.handle.Name, ended(ctx))
	}
}

// beginStop returns the run that is under way or has succeeded, or a new one,
// with this grace or a shorter one.
func (s *sandbox) beginStop(grace time.Duration) (*stopping, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping != nil {
		s.stopping.shorten(grace)
		return s.stopping, nil
	}
	run := &stopping{over: make(chan struct{}), done: make(chan struct{})}
	run.kill = sync.OnceFunc(func() { close(run.over) })
	run.shorten(grace)
	work := func() {
		run.err = s.stop(run.over)
		if run.err != nil {
			s.mu.Lock()
			s.stopping = nil // another call may try again
			s.mu.Unlock()
		}
		close(run.done)
	}
	if !s.b.spawn(work) {
		return nil, errClosed
	}
	s.stopping = run
	return run, nil
}

// stop does Stop's work. graceOver ends the grace.
func (s *sandbox) stop(graceOver <-chan struct{}) error {
	s.stdin.stop()
	s.terminate(graceOver)
	s.out.finish() // whether anybody reads is no matter now
	if err := s.kill(); err != nil {
		s.log.Warn("a sandbox's output may not be whole", "error", err)
	}
	ctx, cancel := bounded(context.Background(), removePatience)
	defer cancel()
	if err := s.b.remove(ctx, s.handle.ID); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", s.handle.Name, err)
	}
	s.cancel(backends.ErrStopped)
	<-s.done
	return nil
}

// terminate asks the main process to end and waits for that, or for the end of
// the grace.
func (s *sandbox) terminate(graceOver <-chan struct{}) {
	select {
	case <-s.done:
		return
	case <-graceOver:
		return
	default:
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	status, lost := s.b.cli.ContainerWait(ctx, s.handle.ID, container.WaitConditionNotRunning)
	if err := s.signal(ctx, "SIGTERM", &s.stopped); err != nil {
		s.log.Warn("a sandbox could not be asked to end", "error", err)
	}
	select {
	case <-status:
		return
	case err := <-lost:
		s.log.Debug("no word of the end from the engine; the output will tell", "error", err)
		select {
		case <-s.done:
		case <-graceOver:
		}
		return
	case <-graceOver:
	}
	cancel()
	s.b.settle(status, lost)
}

// kill ends all that is left and takes in the rest of the output, which a
// reader finds after Stop too. It returns once the streams have ended.
func (s *sandbox) kill() error {
	var sender sync.WaitGroup
	defer sender.Wait()
	ctx, cancel := bounded(context.Background(), killPatience)
	defer cancel()
	tick := time.NewTicker(drainInterval)
	defer tick.Stop()
	// The engine answers when the container has ended, and that waits for its
	// output to be taken.
	killed := make(chan error, 1)
	for sent := false; ; sent = true {
		select {
		case <-s.done:
			return nil
		default:
		}
		if !sent {
			sender.Go(func() { killed <- s.signal(ctx, "SIGKILL", &s.stopped) })
		}
		if err := s.out.extend(drainStep); err != nil {
			return err
		}
		select {
		case <-s.done:
		case err := <-killed:
			if err != nil {
				return err
			}
		case <-tick.C:
		case <-ctx.Done():
			return s.b.engineError(ctx, "wait for the end", ctx.Err())
		}
	}
}

// remove removes a container with its anonymous volumes, whatever state it is
// in, and returns when the engine no longer knows it.
func (b *Backend) remove(ctx context.Context, id string) error {
	for {
		err := b.cli.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil || cerrdefs.IsNotFound(err) || cerrdefs.IsConflict(err) { // a conflict is another removal under way
			if _, err = b.inspect(ctx, id); errors.Is(err, backends.ErrNotFound) {
				return nil
			}
		}
		select {
		case <-time.After(drainInterval):
		case <-ctx.Done():
			if err == nil {
				err = errors.New("the engine still has it")
			}
			return b.engineError(context.WithoutCancel(ctx), fmt.Sprintf("remove container %s", id), err)
		}
	}
}
