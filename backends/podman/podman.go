// Package podman runs sandboxes as containers of a Podman service on this
// host, rootless or not, through libpod's API.
//
// Rootless is what it is made for: sandboxes then run as the user who owns the
// service (user namespace "keep-id"), and nothing of it needs root.
//
// Standard input and output are the container's attach stream, connected
// before the main process starts. The engine also writes both outputs to a log
// file, from which a sandbox is recovered byte for byte.
package podman

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"claude-runner/backends"
)

// Config is the configuration of a backend of this kind.
type Config struct {
	// Socket is the service's address: a path, unix://, or tcp:// on loopback.
	// Empty: CONTAINER_HOST, else the user's own socket below XDG_RUNTIME_DIR
	// or /run/user/UID, and for root /run/podman/podman.sock.
	Socket string `koanf:"socket"`
	// StartService starts `podman system service` where nothing listens at the
	// socket, and ends it with the runner.
	StartService bool `koanf:"start_service"`
	// Runtime is the OCI runtime, a name that Podman knows (crun, runc, runsc).
	// Empty: Podman's own choice.
	Runtime string `koanf:"runtime"`
}

// Kind is how the configuration names this backend.
func Kind() backends.Kind { return backends.Define("podman", Config{}, New) }

const (
	// checkTimeout and pingTimeout bound Check, whose contract is ten seconds.
	checkTimeout = 8 * time.Second
	pingTimeout  = 1500 * time.Millisecond
	// askTimeout bounds what the engine takes to say what it is. On a busy host that
	// is longer than a check has: the check after it gets the answer then.
	askTimeout = 30 * time.Second
	// engineFresh is how long what the engine says of itself is believed.
	engineFresh = 5 * time.Minute
)

var (
	errClosed = fmt.Errorf("%w: the podman backend is closed", backends.ErrUnavailable)
	errSilent = fmt.Errorf("%w: podman does not answer within %v", backends.ErrUnavailable, checkTimeout)
)

// Backend runs sandboxes on one Podman service. It is a backends.Backend.
type Backend struct {
	opts   backends.Options
	cfg    Config
	addr   address
	client *client

	// root lives as long as the backend; what runs in tasks ends with it.
	root  context.Context
	close context.CancelCauseFunc
	tasks sync.WaitGroup

	creating chan struct{} // taken by who creates a container
	asking   singleflight.Group

	mu     sync.Mutex
	engine *engine // nil until the service was asked
	closed bool
}

// New makes a Podman backend.
func New(cfg Config, opts backends.Options) (backends.Backend, error) {
	addr, err := findAddress(cfg.Socket)
	if err != nil {
		return nil, err
	}
	if cfg.StartService && addr.path == "" {
		return nil, fmt.Errorf("start_service: true needs a unix socket, not %s", addr.uri)
	}
	if opts.StateDir != "" && !filepath.IsAbs(opts.StateDir) {
		return nil, fmt.Errorf("state folder %q is not absolute", opts.StateDir)
	}
	b := &Backend{opts: opts, cfg: cfg, addr: addr, creating: make(chan struct{}, 1)}
	b.client = &client{uri: addr.uri, slot: make(chan struct{}, 1)}
	if cfg.StartService {
		b.client.service = newService(addr.path, opts.Log)
	}
	b.root, b.close = context.WithCancelCause(context.Background())
	return b, nil
}

// Name is the name that the configuration gives this backend.
func (b *Backend) Name() string { return b.opts.Name }

// Capabilities is described by backends.Backend. The socket's owner tells
// whether the service is rootless until it was asked.
func (b *Backend) Capabilities() backends.Capabilities {
	isolation := backends.IsolationContainer
	if strings.Contains(b.cfg.Runtime, "runsc") {
		isolation = backends.IsolationUserspace
	}
	c := backends.Capabilities{
		Isolation:      isolation,
		Images:         true,
		MountsAtTarget: true,
		ReadOnlyMounts: true,
		Sockets:        isolation == backends.IsolationContainer && runtime.GOOS == "linux", // elsewhere the service is in a virtual machine
		BindMounts:     b.addr.remote == "",
		Networks:       []backends.NetworkMode{backends.NetworkOpen, backends.NetworkNone},
		Enforced:       backends.EnforcedLimits{OpenFiles: true, CPUTime: true, Tmpfs: true},
		Recover:        true,
	}
	b.mu.Lock()
	e := b.engine
	b.mu.Unlock()
	if e == nil {
		c.FixedUser = b.addr.owner()
		return c
	}
	c.FixedUser = e.fixedUser(b.addr)
	c.Sockets = c.Sockets && !e.info.Host.Security.SELinux
	c.Enforced.Memory, c.Enforced.CPUs, c.Enforced.PIDs = e.holds("memory"), e.holds("cpu"), e.holds("pids")
	return c
}

// Check is described by backends.Backend.
func (b *Backend) Check(ctx context.Context) (backends.Status, error) {
	e, err := b.checked(ctx)
	if err == nil {
		err = b.usable(e)
	}
	if err != nil {
		return backends.Status{}, err
	}
	return backends.Status{Version: e.version(), Notes: e.notes()}, nil
}

// checked makes sure that the engine answers now. A known one that is only busy
// passes: its locks keep other requests waiting, but not a ping, and a start has
// more time than a check.
func (b *Backend) checked(ctx context.Context) (*engine, error) {
	b.mu.Lock()
	known := b.engine
	b.mu.Unlock()
	e, err := b.answer(ctx, known)
	if known != nil && errors.Is(err, errSilent) && b.pings(ctx) {
		return known, nil
	}
	return e, err
}

// answer returns the engine once it has answered. What it is, it is asked only
// now and then: that takes it a second of processor time.
func (b *Backend) answer(ctx context.Context, known *engine) (*engine, error) {
	if known == nil || time.Since(known.asked) > engineFresh {
		return b.ask(ctx)
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := b.client.call(limited, http.MethodGet, "/containers/json", url.Values{"last": {"1"}}, nil, nil)
	switch {
	case ctx.Err() == nil && limited.Err() != nil:
		return nil, b.silent()
	case err != nil:
		return nil, fmt.Errorf("%w%s", err, b.addr.advice(err))
	}
	return known, nil
}

// pings reports whether the service answers at all.
func (b *Backend) pings(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return b.client.call(ctx, http.MethodGet, "/_ping", nil, nil, nil) == nil
}

func (b *Backend) silent() error { return fmt.Errorf("%w: %s", errSilent, b.addr.uri) }

// usable says why no sandbox could be started on the engine.
func (b *Backend) usable(e *engine) error {
	if err := e.usable(); err != nil {
		return fmt.Errorf("%w: podman at %s: %w", backends.ErrUnavailable, b.addr.uri, err)
	}
	return nil
}

// ask learns what the engine is and can do. Who asks at the same time shares
// the answer, and who asks behind one that was not willing to wait so long.
func (b *Backend) ask(ctx context.Context) (*engine, error) {
	if err := b.open(); err != nil {
		return nil, err
	}
	answer := make(chan error, 1)
	var e *engine
	if !b.spawn(func() {
		found, err, _ := b.asking.Do("", func() (any, error) { return b.examine() })
		e, _ = found.(*engine)
		answer <- err
	}) {
		return nil, errClosed
	}
	select {
	case err := <-answer:
		return e, err
	case <-time.After(checkTimeout):
		return nil, b.silent()
	case <-ctx.Done():
		return nil, fmt.Errorf("ask podman what it is: %w", ctx.Err())
	}
}

func (b *Backend) examine() (*engine, error) {
	ctx, cancel := context.WithTimeout(b.root, askTimeout)
	defer cancel()
	e := &engine{asked: time.Now()}
	switch err := b.client.call(ctx, http.MethodGet, "/info", nil, nil, &e.info); {
	case b.root.Err() != nil:
		return nil, errClosed
	case ctx.Err() != nil:
		return nil, b.silent()
	case err != nil:
		return nil, fmt.Errorf("%w%s", err, b.addr.advice(err))
	}
	e.maxOpenFiles = maxOpenFiles(ctx, b.client)
	b.mu.Lock()
	b.engine = e
	b.mu.Unlock()
	return e, nil
}

// known returns what is known of the engine, and asks it the first time.
func (b *Backend) known(ctx context.Context) (*engine, error) {
	b.mu.Lock()
	e := b.engine
	b.mu.Unlock()
	if e != nil {
		return e, b.open()
	}
	return b.ask(ctx)
}

// open says why the backend can not be used, whatever the engine says.
func (b *Backend) open() error {
	if b.addr.remote != "" {
		return fmt.Errorf("%w: %s", backends.ErrUnavailable, b.addr.remote)
	}
	if b.root.Err() != nil {
		return errClosed
	}
	return nil
}

// spawn runs f as a task of the backend, which Close waits for. It reports
// false, and f does not run, once the backend is closed.
func (b *Backend) spawn(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.tasks.Go(f)
	return true
}

// Close lets go of the service, and ends it where the runner has started it.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.close(errClosed)
	b.tasks.Wait()
	if b.client.service != nil {
		return b.client.service.stop()
	}
	return nil
}
