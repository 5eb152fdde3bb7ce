package docker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"

	"claude-runner/backends"
	"claude-runner/backends/internal/proc"
)

// sandbox is one container and what the runner does with it.
type sandbox struct {
	b      *Backend
	handle backends.Handle
	log    *slog.Logger
	stdin  stdin
	out    *pipe
	meter  meter // of what was put into out

	// ctx is what this sandbox's goroutines and long requests live on. It ends
	// with the sandbox, with Close of the backend, or with a Start that failed.
	ctx    context.Context
	cancel context.CancelCauseFunc

	used proc.Meter

	exited chan struct{} // closed when the wait request is over
	lost   error         // why that does not tell of the container's end

	done chan struct{} // closed when exit and err say how it ended
	exit backends.Exit
	err  error

	// ending is held while the container is sent a signal, so that the exit is
	// not put down to a signal that came too late.
	ending   sync.Mutex
	stopped  bool // Stop has ended it
	timedOut bool // Spec.Timeout has ended it

	mu       sync.Mutex
	tail     *backends.Tail
	stopping *stopping // the Stop that runs or has succeeded
}

var _ backends.Sandbox = (*sandbox)(nil)

func (b *Backend) newSandbox(h backends.Handle) *sandbox {
	s := &sandbox{
		b: b, handle: h, log: b.log.With("sandbox", h.Name), tail: backends.NewTail(backends.StderrLimit),
		exited: make(chan struct{}), done: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancelCause(b.ctx)
	s.out = newPipe(s.ctx.Done(), s.stalled)
	s.meter.out = s.out
	return s
}

// adopt begins to look after a container that was started just now. It returns
// false after Close of the backend.
func (s *sandbox) adopt(conn types.HijackedResponse, status <-chan container.WaitResponse, lost <-chan error, began time.Time, timeout time.Duration) bool {
	s.stdin.conn = &conn
	return s.b.spawn(func() { s.watch(status, lost, began, timeout) }) &&
		s.b.spawn(func() { s.conclude(s.live(conn)) })
}

// Handle names the container.
func (s *sandbox) Handle() backends.Handle { return s.handle }

// Stdin is the attached connection's way in.
func (s *sandbox) Stdin() io.WriteCloser { return &s.stdin }

// Stdout is what the pipe carries.
func (s *sandbox) Stdout() io.Reader { return s.out }

// Stderr reads the tail of standard error.
func (s *sandbox) Stderr() io.Reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tail.Reader()
}

// Wait returns how the container ended, once Stdout is read or need not be.
func (s *sandbox) Wait(ctx context.Context) (backends.Exit, error) {
	for _, c := range []<-chan struct{}{s.done, s.out.readAll} {
		select {
		case <-c:
		case <-ctx.Done():
			return backends.Exit{}, fmt.Errorf("wait for sandbox %s: %w", s.handle.Name, ended(ctx))
		}
	}
	return s.exit, s.err
}

// conclude ends the sandbox's streams and tells Wait.
func (s *sandbox) conclude(exit backends.Exit, err error) {
	if err != nil {
		err = fmt.Errorf("sandbox %s: %w", s.handle.Name, err)
		s.out.end(err)
		s.out.finish() // there is nothing for Wait to wait for
	} else {
		s.out.end(io.EOF)
	}
	s.exit, s.err = exit, err
	close(s.done)
	s.stdin.end()
	s.cancel(errEnded)
}
