package podman

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	// stopTimeout bounds each part of what Stop does after grace.
	stopTimeout = 30 * time.Second
	// readerPatience is how long Stop lets a reader of the output stand still
	// before the rest of it is dropped.
	readerPatience = 250 * time.Millisecond
)

// stopper is a Stop that is under way, for all who call it meanwhile.
type stopper struct {
	force chan struct{} // closed when the first caller's grace is over
	once  sync.Once
	done  chan struct{} // closed once err is set
	err   error
}

func (s *sandbox) Stop(ctx context.Context, grace time.Duration) error {
	st := s.stopping()
	if grace <= 0 {
		st.kill()
	} else {
		patience := time.AfterFunc(grace, st.kill)
		defer func() {
			select {
			case <-st.done:
				patience.Stop()
			default: // the caller leaves early; its grace still ends
			}
		}()
	}
	select {
	case <-st.done:
		return st.err
	case <-ctx.Done():
		return fmt.Errorf("stop sandbox %s: %w", s.handle.Name, ctx.Err())
	}
}

func (st *stopper) kill() { st.once.Do(func() { close(st.force) }) }

// stopping returns the stopper that is under way or has succeeded, else a new one.
func (s *sandbox) stopping() *stopper {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopAt.IsZero() {
		s.stopAt = time.Now()
	}
	if s.stopper != nil {
		select {
		case <-s.stopper.done:
			if s.stopper.err == nil {
				return s.stopper
			}
		default:
			return s.stopper
		}
	}
	st := &stopper{force: make(chan struct{}), done: make(chan struct{})}
	s.stopper = st
	work := func() {
		if err := s.end(s.b.root, st.force); err != nil {
			st.err = fmt.Errorf("stop sandbox %s: %w", s.handle.Name, err)
		}
		close(st.done)
	}
	if !s.b.spawn(work) {
		st.err = fmt.Errorf("stop sandbox %s: %w", s.handle.Name, errClosed)
		close(st.done)
	}
	return st
}

// end asks the main process to end, kills all that is left once force is
// closed, and removes the container with all that belongs to it.
func (s *sandbox) end(ctx context.Context, force <-chan struct{}) error {
	helpers := s.b.helpers(ctx, s.handle.ID)
	select {
	case <-s.exited:
	case <-force:
	default:
		if err := s.kill(ctx, "TERM"); err != nil {
			s.b.opts.Log.Debug("podman: ask to end", "sandbox", s.handle.Name, "error", err)
		}
		select {
		case <-s.exited:
		case <-force:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.in.stopped.Store(true)
	s.cut()
	if err := s.killAndSee(ctx); err != nil {
		return err
	}
	s.settleOutput(ctx)
	if err := s.b.remove(ctx, s.handle.ID); err != nil {
		return err
	}
	if err := helpers.await(ctx); err != nil {
		return err
	}
	if err := s.rec.removeLog(); err != nil {
		return err
	}
	close(s.gone)
	return nil
}

// killAndSee kills the tree, where that has not ended, and waits until its end
// is known. The attach stream is cut by now: while its reader is away, the
// engine would wait for it and not see the end.
func (s *sandbox) killAndSee(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	for {
		select {
		case <-s.exited:
			return nil
		default:
		}
		failed := s.kill(ctx, "KILL")
		select {
		case <-s.exited:
			return nil
		case <-time.After(time.Second):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), failed)
		}
	}
}

// settleOutput gives the reader of the output the time that it takes to read
// on, but not to stand still.
func (s *sandbox) settleOutput(ctx context.Context) {
	look := time.NewTicker(readerPatience / 5)
	defer look.Stop()
	for {
		select {
		case <-s.out.ended:
			return
		case <-ctx.Done():
			return
		case <-look.C:
			s.out.abandon(readerPatience)
		}
	}
}

// remove removes a container by id or name, and returns once the engine does
// not know it any more.
func (b *Backend) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	query := url.Values{"force": {"true"}, "v": {"true"}, "timeout": {"0"}}
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		// While the engine cleans up after a container's end, it may refuse.
		failed := b.client.call(ctx, http.MethodDelete, "/containers/%s", query, nil, nil, id)
		err := b.client.call(ctx, http.MethodGet, "/containers/%s/exists", nil, nil, nil, id)
		if status(err) == http.StatusNotFound {
			return nil
		}
		if sleep(ctx, pause) != nil {
			return fmt.Errorf("remove the container: %w", errors.Join(context.Cause(ctx), failed, err))
		}
	}
}
