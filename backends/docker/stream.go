package docker

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"claude-runner/backends"
)

const (
	// exitPatience is how long after the end of the attached streams the engine
	// may take to tell the exit. It does both at once.
	exitPatience = 5 * time.Second

	// absencePatience is how long an engine may be away, while it is restarted
	// say, before the outcome of its sandboxes is given up.
	absencePatience = 2 * time.Minute

	retryInterval = 250 * time.Millisecond
)

var (
	errEnded     = errors.New("the sandbox has ended")
	errCutShort  = errors.New("the output ended before the container")
	errAway      = errors.New("the sandbox ended while its engine was away, which may have lost the end of the output")
	errLogDiffer = errors.New("the engine's log of the output is not what was read before")
	errLogShort  = errors.New("the engine's log of the output is shorter than what was read before")
)

// live carries the output from the attached connection, and returns how the
// container ended. Where that can not have been the connection's whole output,
// the engine's log has to tell the rest.
func (s *sandbox) live(conn types.HijackedResponse) (backends.Exit, error) {
	unhook := context.AfterFunc(s.ctx, conn.Close)
	defer unhook()
	_, broken := stdcopy.StdCopy(&s.meter, s.tail, conn.Reader)
	over := time.Now()
	state, err := s.whole(over)
	if err == nil && broken == nil {
		return s.exitAfter(state)
	}
	if s.ctx.Err() != nil {
		return backends.Exit{}, ended(s.ctx)
	}
	s.log.Warn("connection to a sandbox broke; the output is read from the engine's log", "error", errors.Join(broken, err))
	s.stdin.end()
	if err == nil || errors.Is(err, errCutShort) {
		over = time.Time{} // the engine was there all the time
	}
	return s.follow(0, over)
}

// whole returns the container's last state where the attached connection, which
// was over at that time, carried all of the output. The end of a connection
// looks the same whether the container has ended or the connection broke. But
// only where the wait request, which was there before the start, was answered
// did one engine see the container to its end; and only where the container
// had ended before the connection did was the end the container's.
func (s *sandbox) whole(over time.Time) (container.InspectResponse, error) {
	timer := time.NewTimer(exitPatience)
	defer timer.Stop()
	select {
	case <-s.exited:
	case <-timer.C:
		return container.InspectResponse{}, errCutShort
	case <-s.ctx.Done():
		return container.InspectResponse{}, ended(s.ctx)
	}
	if s.lost != nil {
		return container.InspectResponse{}, s.lost
	}
	state, err := s.inspect(s.ctx)
	if err == nil && parseTime(state.State.FinishedAt).After(over) {
		err = errCutShort
	}
	return state, err
}

// follow carries the output from the engine's log, from byte from on and
// without what has been carried already, and returns how the container ended.
// left is when the engine went away; zero where it did not.
//
// It outlasts a restart of the engine, where the container did: of a container
// that ended meanwhile it carries what the log has, but that may not be all, and
// the outcome is not known. Nor is it where what was carried is not in the log.
func (s *sandbox) follow(from int64, left time.Time) (backends.Exit, error) {
	seen := time.Now()
	for {
		began := time.Now()
		state, err := s.inspect(s.ctx)
		if err == nil {
			if isRunning(state) {
				left = time.Time{}
			}
			unseen := !left.IsZero() && parseTime(state.State.FinishedAt).After(left)
			err = s.readLog(from, !isRunning(state))
			if unseen && (err == nil || errors.Is(err, errLogShort)) {
				return backends.Exit{}, errAway
			}
		}
		if err == nil || time.Since(began) > exitPatience {
			seen = time.Now() // it was there for a while
		}
		switch {
		case s.ctx.Err() != nil:
			return backends.Exit{}, ended(s.ctx)
		case err == nil && !isRunning(state):
			return s.exitAfter(state)
		case errors.Is(err, backends.ErrNotFound), errors.Is(err, errLogDiffer), errors.Is(err, errLogShort):
			return backends.Exit{}, err
		case err != nil && time.Since(seen) > absencePatience:
			return backends.Exit{}, fmt.Errorf("given up after %v: %w", absencePatience, err)
		case err != nil && left.IsZero():
			left = time.Now()
		}
		select {
		case <-time.After(retryInterval):
		case <-s.ctx.Done():
		}
	}
}

// readLog reads the log from its beginning and carries what is new of it. Only
// a reading that began after the container's end has surely met the log's end:
// an engine may cut the following of a log short.
func (s *sandbox) readLog(from int64, complete bool) error {
	log, err := s.b.cli.ContainerLogs(s.ctx, s.handle.ID, container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: !complete})
	if err != nil {
		return s.b.engineError(s.ctx, "read the container's log", err)
	}
	defer log.Close()
	tail := backends.NewTail(backends.StderrLimit)
	s.mu.Lock()
	s.tail = tail
	s.mu.Unlock()
	r := replay{skip: from, known: s.meter.n, to: &s.meter}
	r.sum.SetSeed(s.meter.sum.Seed())
	if _, err := stdcopy.StdCopy(&r, tail, log); err != nil {
		if errors.Is(err, errLogDiffer) {
			return err
		}
		return s.b.engineError(s.ctx, "read the container's log", err)
	}
	if complete && (r.skip > 0 || r.known > 0) {
		return errLogShort
	}
	return nil
}

// meter passes output on and remembers how much that was, and its hash.
type meter struct {
	out io.Writer
	n   int64
	sum maphash.Hash
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.out.Write(p)
	m.n += int64(n)
	_, _ = m.sum.Write(p[:n])
	return n, err
}

// replay drops what has to be skipped, then what is known, which has to be what
// the meter saw, and passes on the rest.
type replay struct {
	skip, known int64
	sum         maphash.Hash
	to          *meter
}

func (r *replay) Write(p []byte) (int, error) {
	all := len(p)
	n := min(r.skip, int64(len(p)))
	r.skip, p = r.skip-n, p[n:]
	if n := min(r.known, int64(len(p))); n > 0 {
		_, _ = r.sum.Write(p[:n])
		r.known, p = r.known-n, p[n:]
		if r.known == 0 && r.sum.Sum64() != r.to.sum.Sum64() {
			return 0, errLogDiffer
		}
	}
	if len(p) > 0 {
		if _, err := r.to.Write(p); err != nil {
			return 0, err
		}
	}
	return all, nil
}

// stalled is called while the output waits for its reader. Where the process
// has ended, the engine throws away after two seconds what it has not been able
// to pass on, and says nothing. It can not be asked whether the process has
// ended: until then it does not answer for this container. So where it does not
// answer, the rest of the output is let in, which is no more than a pipe holds.
func (s *sandbox) stalled() {
	ctx, cancel := context.WithTimeout(s.ctx, stallAfter)
	defer cancel()
	if _, err := s.inspect(ctx); err != nil {
		_ = s.out.extend(pipeLimit) // at the ceiling nothing more can be let in
	}
}
