// Package docker runs sandboxes as containers of a Docker engine on this host,
// over the engine's API.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/docker/docker/client"

	"claude-runner/backends"
)

// Config is what the configuration says of a Docker backend.
type Config struct {
	// Host is the engine's address, in the form of DOCKER_HOST:
	// unix:///var/run/docker.sock or tcp://127.0.0.1:2375. Empty is
	// $DOCKER_HOST or, without that, the first of the usual sockets that is
	// there: the system's, the user's own (rootless), Docker Desktop's. A tcp
	// address uses TLS where DOCKER_CERT_PATH is set, as Docker's client does.
	Host string `koanf:"host"`

	// Runtime is the engine's name for the runtime of the sandboxes, runsc for
	// gVisor. Empty is the engine's default.
	Runtime string `koanf:"runtime"`
}

// Kind returns the backend kind "docker", whose configuration is a Config.
func Kind() backends.Kind { return backends.Define("docker", Config{}, New) }

// Backend starts containers on one engine. It is a backends.Backend.
type Backend struct {
	name     string
	instance string
	cfg      Config
	stateDir string        // "": there is none
	nobody   backends.User // who sandboxes are where a Spec does not say and the runner is root
	log      *slog.Logger
	at       endpoint
	cli      *client.Client

	// ctx is what the goroutines of sandboxes live on; Close cancels it.
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	tasks  sync.WaitGroup // all goroutines of this backend; added to under mu
	known  *engine        // nil before the first Check that succeeds
}

var _ backends.Backend = (*Backend)(nil)

var errClosed = errors.New("docker backend is closed")

// New makes a backend. It does not talk to the engine.
func New(cfg Config, opts backends.Options) (backends.Backend, error) {
	at, err := findEndpoint(cfg.Host)
	if err != nil {
		return nil, err
	}
	cli, err := at.client()
	if err != nil {
		return nil, fmt.Errorf("docker client for %s: %w", at.host, err)
	}
	b := &Backend{
		name: opts.Name, instance: opts.Instance, cfg: cfg, stateDir: opts.StateDir, nobody: opts.User, log: opts.Log.With("backend", opts.Name), at: at, cli: cli,
	}
	b.ctx, b.cancel = context.WithCancelCause(context.Background())
	return b, nil
}

// Name returns the backend's configured name.
func (b *Backend) Name() string { return b.name }

// Capabilities says what this backend does. Which limits are held, the user of
// a rootless engine, whether sandboxes reach sockets, and the isolation of a
// runtime whose name does not tell are known after the first Check.
func (b *Backend) Capabilities() backends.Capabilities {
	c := backends.Capabilities{
		Isolation:      isolation(b.cfg.Runtime),
		Images:         true,
		MountsAtTarget: true,
		ReadOnlyMounts: true,
		BindMounts:     b.at.remote == nil,
		Networks:       []backends.NetworkMode{backends.NetworkOpen, backends.NetworkNone},
		Enforced:       backends.EnforcedLimits{OpenFiles: true, Tmpfs: true},
		Recover:        true,
	}
	if e := b.engine(); e != nil {
		c.Isolation, c.FixedUser, c.Enforced, c.Sockets = e.isolation, e.fixedUser, e.enforced, e.sockets
	}
	return c
}

// Close ends what this backend does with its sandboxes: their streams end with
// an error. The containers stay, but the standard input of each reaches its end.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel(errClosed)
	b.tasks.Wait()
	return b.cli.Close()
}

// spawn runs f in a goroutine that Close waits for. It returns false, and does
// not run f, after Close.
func (b *Backend) spawn(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.tasks.Go(f)
	return true
}

// engine returns what the first Check found, or nil.
func (b *Backend) engine() *engine {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known
}
