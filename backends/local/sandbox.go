package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"claude-runner/backends"
	"claude-runner/backends/internal/proc"
)

// sandbox is a sandbox that this process has started or taken over.
type sandbox struct {
	b       *backend
	folder  folder
	handle  backends.Handle
	stdin   *stdin
	stdout  *follower
	keeper  *keeperWatch
	measure func() proc.Usage // zero is not known
	used    proc.Meter
	control *os.File // nil where the keeper has ended already

	// ended is closed once the keeper has ended; result and unknown are set
	// before that.
	ended   chan struct{}
	result  result
	unknown error // why result is not known

	cleaning chan struct{} // holds a value while one of Stop's callers cleans up
	stopped  chan struct{} // closed when nothing is left

	mu     sync.Mutex
	stderr []byte // what was kept, once the folder is gone
}

func (s *sandbox) Handle() backends.Handle { return s.handle }
func (s *sandbox) Stdin() io.WriteCloser   { return s.stdin }
func (s *sandbox) Stdout() io.Reader       { return s.stdout }

func (s *sandbox) Stderr() io.Reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stderr == nil {
		return bytes.NewReader(s.folder.stderr())
	}
	return bytes.NewReader(s.stderr)
}

func (s *sandbox) Wait(ctx context.Context) (backends.Exit, error) {
	if err := s.await(ctx, s.ended); err != nil {
		return backends.Exit{}, err
	}
	if !s.stdout.atEnd() {
		if err := s.await(ctx, s.stdout.drained, s.stopped); err != nil {
			return backends.Exit{}, err
		}
	}
	return s.result.Exit, s.unknown
}

// keeperGrace is how long a keeper may take, beyond the grace of Stop, before
// it is taken for stuck.
const keeperGrace = 10 * time.Second

// Stop leaves the work to the keeper. Only where that was killed, or does not
// come to an end, it kills what carries the sandbox's mark.
func (s *sandbox) Stop(ctx context.Context, grace time.Duration) error {
	if isClosed(s.stopped) {
		return nil
	}
	if err := s.stop(ctx, grace); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", s.handle.Name, err)
	}
	return nil
}

func (s *sandbox) stop(ctx context.Context, grace time.Duration) error {
	s.command(stopCommand, int64(grace))
	stuck := time.AfterFunc(grace+keeperGrace, s.keeper.kill)
	defer stuck.Stop()
	if err := s.await(ctx, s.ended); err != nil {
		return err
	}
	select {
	case s.cleaning <- struct{}{}:
		defer func() { <-s.cleaning }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if isClosed(s.stopped) {
		return nil
	}
	if s.unknown != nil {
		if err := poll(ctx, func() (bool, error) { return !killMarked(s.handle.ID), nil }); err != nil {
			return fmt.Errorf("kill what its keeper left: %w", err)
		}
	}
	s.unwatch() // before the name is free: another sandbox's output has the same path
	if err := s.clean(ctx); err != nil {
		return err
	}
	s.stdin.halt()
	s.b.forget(s)
	close(s.stopped)
	return nil
}

// clean removes the folder, if it is still this sandbox's.
func (s *sandbox) clean(ctx context.Context) error {
	s.mu.Lock()
	if s.stderr == nil {
		s.stderr = append([]byte{}, s.folder.stderr()...)
	}
	s.mu.Unlock()
	return poll(ctx, func() (bool, error) {
		lock, err := s.folder.lock()
		if isGone(err) {
			return true, nil
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil // another has a look at it
		}
		if err != nil {
			return false, fmt.Errorf("lock the state folder: %w", err)
		}
		defer lock.Close()
		if h, err := s.folder.handle(); err != nil || h.ID != s.handle.ID {
			return true, ignoreGone(err)
		}
		return true, s.folder.remove()
	})
}

// Usage looks at the processes of the sandbox, as long as there are any. Memory
// is the sum of their proportional set sizes, read at least twice a minute;
// between, a process's growth is added to its own. It is zero where the runner
// may not read that of one of them, and where the system is no Linux.
func (s *sandbox) Usage(context.Context) (backends.Usage, error) {
	if isClosed(s.ended) {
		s.used.Keep(proc.Usage(s.result.Usage))
	} else {
		s.used.Keep(s.measure())
	}
	return backends.Usage(s.used.Last()), nil
}

// awaitKeeper closes ended at the keeper's end. It returns at the backend's
// Close, too.
func (s *sandbox) awaitKeeper() {
	if !s.keeper.wait() {
		return
	}
	s.conclude()
	if s.unknown != nil {
		s.b.log.Warn("a sandbox's outcome is not known", "backend", s.b.name, "sandbox", s.handle.Name, "error", s.unknown)
	}
}

// conclude reads how the sandbox ended.
func (s *sandbox) conclude() {
	s.result, s.unknown = s.folder.result()
	switch {
	case s.unknown != nil:
		s.unknown = fmt.Errorf("how the sandbox ended is not known, for its keeper was killed: %w%s", s.unknown, s.folder.complaint())
	case s.result.Lost != "":
		s.unknown = fmt.Errorf("some of the sandbox's output is lost: %s", s.result.Lost)
	}
	close(s.ended)
}

// command tells the keeper something. A keeper that has ended does not mind.
func (s *sandbox) command(format string, args ...any) {
	if s.control != nil {
		_, _ = fmt.Fprintf(s.control, format, args...)
	}
}

// await waits for one of one or two channels, and prefers them to ctx's end.
func (s *sandbox) await(ctx context.Context, channels ...<-chan struct{}) error {
	first, second := channels[0], channels[len(channels)-1]
	if isClosed(first) || isClosed(second) {
		return nil
	}
	select {
	case <-first:
	case <-second:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.b.done:
		return errClosed
	}
	return nil
}

// unwatch lets go of what tells of output and of the keeper's end.
func (s *sandbox) unwatch() {
	s.keeper.close()
	if s.control != nil {
		_ = s.control.Close()
	}
	s.stdout.unwatch()
}

// release lets go of everything, and ends whoever reads or writes.
func (s *sandbox) release() {
	s.unwatch()
	_ = s.stdin.Close()
	_ = s.stdout.file.Close()
}

// stdin is a sandbox's standard input.
type stdin struct {
	pipe   *os.File // nil where the sandbox was taken over
	halted atomic.Bool
}

func (w *stdin) Write(p []byte) (int, error) {
	if w.halted.Load() {
		return 0, backends.ErrStopped
	}
	if w.pipe == nil {
		return 0, fmt.Errorf("standard input ended with the runner that started the sandbox: %w", os.ErrClosed)
	}
	n, err := w.pipe.Write(p)
	if err != nil && w.halted.Load() {
		err = backends.ErrStopped
	}
	return n, err
}

func (w *stdin) Close() error {
	if w.pipe == nil {
		return nil
	}
	if err := w.pipe.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// halt ends writes, for the sandbox is stopped.
func (w *stdin) halt() {
	w.halted.Store(true)
	_ = w.Close()
}

// poll calls done until it is true, fails, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func ignoreGone(err error) error {
	if isGone(err) {
		return nil
	}
	return err
}
