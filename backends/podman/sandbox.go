package podman

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"claude-runner/backends"
	"claude-runner/backends/internal/proc"
)

type sandbox struct {
	b      *Backend
	rec    record
	handle backends.Handle

	conn  stream // attached; nil where the sandbox is recovered
	from  int64  // how much of standard output is not wanted
	in    *input
	out   *output
	errs  *backends.Tail
	timer *time.Timer // fires at the deadline
	used  proc.Meter

	exited  chan struct{} // closed once exit and exitErr are set
	exit    backends.Exit
	exitErr error
	gone    chan struct{} // closed once Stop has succeeded

	mu       sync.Mutex
	attached bool      // conn is being read
	stopAt   time.Time // when Stop was first called
	stopper  *stopper  // the Stop that is under way or was the last
}

// newSandbox returns the sandbox of a container. begin makes it live.
func (b *Backend) newSandbox(id string, rec record, conn stream, from int64) *sandbox {
	return &sandbox{
		b:        b,
		rec:      rec,
		handle:   b.handle(id, rec),
		conn:     conn,
		attached: conn != nil,
		from:     from,
		in:       &input{to: conn},
		out:      newOutput(),
		errs:     backends.NewTail(backends.StderrLimit),
		exited:   make(chan struct{}),
		gone:     make(chan struct{}),
	}
}

func (b *Backend) handle(id string, rec record) backends.Handle {
	return backends.Handle{Backend: b.opts.Name, ID: id, Name: rec.Name, Version: 1, Labels: rec.Labels}
}

// begin starts to carry output, and the deadline's timer. It fails where the
// backend is closed.
func (s *sandbox) begin() error {
	if !s.rec.Deadline.IsZero() {
		s.timer = time.AfterFunc(time.Until(s.rec.Deadline), func() { s.b.spawn(s.expire) })
	}
	if !s.b.spawn(s.run) {
		s.disarm()
		return errClosed
	}
	return nil
}

// disarm stops the deadline's timer.
func (s *sandbox) disarm() {
	if s.timer != nil {
		s.timer.Stop()
	}
}

func (s *sandbox) Handle() backends.Handle { return s.handle }
func (s *sandbox) Stdin() io.WriteCloser   { return s.in }
func (s *sandbox) Stdout() io.Reader       { return s.out }
func (s *sandbox) Stderr() io.Reader       { return s.errs.Reader() }

func (s *sandbox) Wait(ctx context.Context) (backends.Exit, error) {
	select {
	case <-s.exited:
	case <-ctx.Done():
		return backends.Exit{}, fmt.Errorf("wait for sandbox %s: %w", s.handle.Name, ctx.Err())
	}
	select {
	case <-s.out.done:
	case <-s.gone:
	case <-ctx.Done():
		return backends.Exit{}, fmt.Errorf("wait for the reader of sandbox %s: %w", s.handle.Name, ctx.Err())
	}
	return s.exit, s.exitErr
}

// run carries the sandbox's output until its end: by the attach stream while
// that lasts, and then by the engine's log whatever the stream has left out.
// The stream ends early when the service does, or when it is cut.
func (s *sandbox) run() {
	ctx := s.b.root
	defer context.AfterFunc(ctx, func() { s.cut(); s.out.finish(errClosed) })()
	stdout, stderr := &counter{Writer: s.out, n: s.from}, &counter{Writer: s.errs}
	whole := false // the attach stream, as far as can be told
	if s.conn != nil {
		err := demux(s.conn, stdout, stderr)
		if whole = err == nil; !whole {
			s.b.opts.Log.Debug("podman: attach stream ended early", "sandbox", s.handle.Name, "error", err)
		}
		s.cut()
		s.mu.Lock()
		s.attached = false
		s.out.hold(false)
		s.mu.Unlock()
	}
	found, err := s.b.inspect(ctx, s.handle.ID)
	if err != nil {
		whole = false // the stream may have ended with the service
		found, err = s.inspect(ctx)
	}
	if err != nil {
		s.finish(backends.Exit{}, err)
		if errors.Is(err, backends.ErrNotFound) {
			err = io.EOF // with the container all of its processes are gone
		}
		s.out.finish(err)
		return
	}
	rest := make(chan error, 1)
	go func() { rest <- s.copyRest(ctx, found, stdout, stderr, whole && found.ended()) }()
	s.finish(s.outcome(ctx, found))
	if err := <-rest; err != nil {
		s.out.finish(fmt.Errorf("read the output of sandbox %s: %w", s.handle.Name, err))
		return
	}
	s.out.finish(io.EOF)
}

// finish sets the outcome, which never changes afterwards.
func (s *sandbox) finish(exit backends.Exit, err error) {
	if err != nil {
		err = fmt.Errorf("sandbox %s: outcome not known: %w", s.handle.Name, err)
	}
	s.exit, s.exitErr = exit, err
	s.disarm()
	close(s.exited)
}

// cut closes the attach stream, and with it the main process's standard input.
// The rest of the output comes from the log, also where the stream was waiting
// for its reader.
func (s *sandbox) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attached {
		s.conn.Close()
		s.out.hold(true)
	}
}

// copyRest writes to stdout and stderr what of the container's output they
// have not seen yet. A log that the runner can not read itself is not asked for
// where the output seems to be whole.
func (s *sandbox) copyRest(ctx context.Context, found *inspection, stdout, stderr *counter, whole bool) error {
	to := &logParser{stdout: &skip{to: stdout, n: stdout.n}, stderr: &skip{to: stderr, n: stderr.n}}
	e, err := s.b.known(ctx)
	if err != nil {
		return err
	}
	uid := 0
	if e.rootless() {
		uid = e.fixedUser(s.b.addr).UID
	}
	log, err := openLog(found.HostConfig.LogConfig.Path, uid)
	switch {
	case err == nil:
		defer log.Close()
		return copyLog(ctx, log, to, s.exited)
	case !isUnreadable(err):
		return err
	case whole:
		return nil
	default:
		return s.askLog(ctx, found, to, stdout, stderr)
	}
}

// askLog has the service read the log, which takes it a millisecond a line.
// Where it follows a log, it may stop too early or not at all; then the log is
// read again from the beginning.
func (s *sandbox) askLog(ctx context.Context, found *inspection, to *logParser, stdout, stderr *counter) error {
	if !found.ended() {
		following, cancel := context.WithCancel(ctx)
		defer cancel()
		s.b.spawn(func() {
			select {
			case <-s.exited:
				_ = sleep(following, followPatience)
			case <-following.Done():
			}
			cancel()
		})
		if err := s.readLog(following, "true", to.stdout, to.stderr); err != nil {
			s.b.opts.Log.Debug("podman: follow the log", "sandbox", s.handle.Name, "error", err)
		}
	}
	select {
	case <-s.exited:
		return s.readLog(ctx, "false", &skip{to: stdout, n: stdout.n}, &skip{to: stderr, n: stderr.n})
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *sandbox) readLog(ctx context.Context, follow string, stdout, stderr io.Writer) error {
	query := url.Values{"stdout": {"true"}, "stderr": {"true"}, "follow": {follow}}
	body, err := s.b.client.open(ctx, http.MethodGet, "/containers/%s/logs", query, s.handle.ID)
	if err != nil {
		return err
	}
	defer body.Close()
	return demux(body, stdout, stderr)
}

const (
	// lookPatience is how long a service may be away, as while it is restarted.
	lookPatience = time.Minute
	// followPatience is how long the service may follow a log that has ended.
	followPatience = 2 * time.Second
)

// inspect asks what is known of the container, again and again where the
// service does not answer.
func (s *sandbox) inspect(ctx context.Context) (*inspection, error) {
	pause := 50 * time.Millisecond
	for began := time.Now(); ; pause = min(2*pause, time.Second) {
		found, err := s.b.inspect(ctx, s.handle.ID)
		if err == nil {
			return found, nil
		}
		if !errors.Is(err, backends.ErrUnavailable) || time.Since(began) > lookPatience {
			return nil, err
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// outcome waits for the main process's end and says how it came.
func (s *sandbox) outcome(ctx context.Context, found *inspection) (backends.Exit, error) {
	for !found.ended() {
		if err := s.awaitChange(ctx); err != nil {
			return backends.Exit{}, err
		}
		var err error
		if found, err = s.inspect(ctx); err != nil {
			return backends.Exit{}, err
		}
	}
	exit := backends.Exit{Code: found.State.ExitCode}
	if n := exit.Code - 128; n > 0 && n <= 64 {
		exit.Code, exit.Signal = -1, n
	}
	if exit.Code == initFailed && s.programMissing(ctx, found) {
		exit.Code = 127
	}
	exit.OOMKilled = found.State.OOMKilled && exit.Signal == 9

	s.mu.Lock()
	defer s.mu.Unlock()
	// The engine's time is that of a file, which the kernel takes from a coarse clock.
	finished := found.State.FinishedAt.Add(20 * time.Millisecond)
	within := func(t time.Time) bool { return !t.IsZero() && !finished.Before(t) }
	switch {
	case within(s.rec.Deadline) && exit.Signal == 9 && (s.stopAt.IsZero() || s.rec.Deadline.Before(s.stopAt)):
		exit.TimedOut = true
	case within(s.stopAt):
		exit.Stopped = true
	}
	return exit, nil
}

// awaitChange returns when the main process seems to have ended.
func (s *sandbox) awaitChange(ctx context.Context) error {
	query := url.Values{"condition": {"stopped", "exited"}, "interval": {"50ms"}}
	body, err := s.b.client.open(ctx, http.MethodPost, "/containers/%s/wait", query, s.handle.ID)
	if err == nil {
		_, err = io.Copy(io.Discard, body)
		body.Close()
	}
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return sleep(ctx, 100*time.Millisecond) // inspect tells why
}

// expire ends the sandbox at its deadline.
func (s *sandbox) expire() {
	s.cut() // a reader that has stopped reading must not keep the tree alive
	for {
		if err := s.kill(s.b.root, "KILL"); err != nil {
			s.b.opts.Log.Debug("podman: kill at the deadline", "sandbox", s.handle.Name, "error", err)
		}
		select {
		case <-s.exited:
			return
		case <-s.gone:
			return
		case <-s.b.root.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// kill sends a signal to the container's init, which passes it on to the main
// process; KILL ends the whole tree.
func (s *sandbox) kill(ctx context.Context, signal string) error {
	return s.b.client.call(ctx, http.MethodPost, "/containers/%s/kill", url.Values{"signal": {signal}}, nil, nil, s.handle.ID)
}

// sleep waits for d, or returns ctx's cause.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
