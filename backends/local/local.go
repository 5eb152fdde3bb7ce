// Package local is the backend for development: sandboxes are plain processes
// of this host, without a container engine and without root. It ends whole
// process trees and bounds what the system lets it bound, but it isolates
// nothing.
//
// Each sandbox has a keeper, a process of this same program that starts the
// sandbox's main process, owns its descendants, writes its output down in the
// sandbox's state folder, and outlives the runner. The package's init function
// recognises a keeper: a program that imports the package has nothing to do for
// it. Under systemd, keepers outlive the runner's service with KillMode=process.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"claude-runner/backends"
)

// Config is a local backend's configuration.
type Config struct {
	// Path is the PATH that a sandbox is given where its Spec has none: a list
	// of absolute folders. Empty: the runner's own PATH.
	Path []string `koanf:"path"`
}

// Kind is the registry's entry of this package.
func Kind() backends.Kind { return backends.Define("local", Config{}, New) }

// New makes a local backend.
func New(cfg Config, opts backends.Options) (backends.Backend, error) {
	for _, dir := range cfg.Path {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("path: %q is not an absolute folder", dir)
		}
	}
	if !filepath.IsAbs(opts.StateDir) {
		return nil, fmt.Errorf("state folder %q is not absolute", opts.StateDir)
	}
	b := &backend{
		name: opts.Name, instance: opts.Instance, stateDir: opts.StateDir, user: opts.User, log: opts.Log,
		path: strings.Join(cfg.Path, string(os.PathListSeparator)),
		done: make(chan struct{}),
	}
	if b.path == "" {
		b.path = os.Getenv("PATH")
	}
	return b, nil
}

// warning is Capabilities.Warning.
const warning = "The local backend isolates nothing: agents run as plain processes of this host and can read and change whatever their user can. It is for development."

// Capabilities says little: read-only mounts are as writable as their mode and
// owner make them for Spec.User, and Tmpfs folders are the host's own.
func (b *backend) Capabilities() backends.Capabilities {
	c := backends.Capabilities{
		Isolation:  backends.IsolationNone,
		BindMounts: true,
		Sockets:    true,
		Networks:   []backends.NetworkMode{backends.NetworkOpen},
		Enforced:   backends.EnforcedLimits{OpenFiles: true, CPUTime: true},
		Recover:    true,
		Warning:    warning,
	}
	if uid := os.Geteuid(); uid != 0 {
		c.FixedUser = &backends.User{UID: uid, GID: os.Getegid()}
	}
	return c
}

// Check makes the state folder and looks for a shell.
func (b *backend) Check(ctx context.Context) (backends.Status, error) {
	if err := ctx.Err(); err != nil {
		return backends.Status{}, err
	}
	if err := b.available(); err != nil {
		return backends.Status{}, err
	}
	if os.Geteuid() == 0 && b.user == (backends.User{}) {
		return backends.Status{}, fmt.Errorf("%w: the runner is root and has no unprivileged user for sandboxes: configure one, or run it as an ordinary user", backends.ErrUnavailable)
	}
	if _, err := lookProgram("sh", b.path, "/"); err != nil {
		return backends.Status{}, fmt.Errorf("%w: no shell in the search path %q: set the backend's path", backends.ErrUnavailable, b.path)
	}
	if _, err := startTime(os.Getpid()); err != nil {
		return backends.Status{}, fmt.Errorf("%w: the system does not tell of its processes: %w: mount /proc", backends.ErrUnavailable, err)
	}
	return backends.Status{Version: kernel(), Notes: platformNotes}, nil
}

// Close ends what watches the sandboxes. They go on, and find end of file on
// their standard input, as they do when the runner is killed.
func (b *backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	close(b.done)
	for s := range b.sandboxes {
		s.release()
	}
	var err error
	if b.watch != nil {
		err = b.watch.close()
	}
	b.wg.Wait()
	return err
}

func (b *backend) Name() string { return b.name }

// backend is a local backend. Its state folder holds a folder for each sandbox.
type backend struct {
	name, instance, stateDir, path string
	user                           backends.User
	log                            *slog.Logger

	done chan struct{} // closed by Close
	wg   sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	watch     *watcher // made at the first need
	sandboxes map[*sandbox]struct{}
}

var errClosed = fmt.Errorf("%w: it is closed", backends.ErrUnavailable)

// available makes the state folder. Its error is an ErrUnavailable.
func (b *backend) available() error {
	err := os.MkdirAll(filepath.Dir(b.stateDir), 0o755) // which may hold what sandboxes use
	if err == nil {
		err = os.Mkdir(b.stateDir, 0o700)
	}
	if err == nil || errors.Is(err, os.ErrExist) {
		err = unix.Access(b.stateDir, unix.R_OK|unix.W_OK|unix.X_OK)
	}
	if err != nil {
		return fmt.Errorf("%w: state folder %s: %w: the runner must be able to make it and write there", backends.ErrUnavailable, b.stateDir, err)
	}
	return nil
}

// watcher returns what tells of files that grow.
func (b *backend) watcher() (*watcher, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	if b.watch == nil {
		w, err := newWatcher()
		if err != nil {
			return nil, fmt.Errorf("%w: watch for output: %w (on Linux, fs.inotify.max_user_instances bounds this)", backends.ErrUnavailable, err)
		}
		b.watch = w
	}
	return b.watch, nil
}

// adopt starts to watch over s until it is ended or the backend is closed.
func (b *backend) adopt(s *sandbox) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed
	}
	if b.sandboxes == nil {
		b.sandboxes = map[*sandbox]struct{}{}
	}
	b.sandboxes[s] = struct{}{}
	b.wg.Go(s.awaitKeeper)
	return nil
}

// forget lets go of a sandbox that is stopped.
func (b *backend) forget(s *sandbox) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sandboxes, s)
}

// folder is the state folder of the sandbox of that name.
func (b *backend) folder(name string) folder { return folder(filepath.Join(b.stateDir, name)) }

// kernel names the system, or is empty.
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

// isGone says whether err means that a file or process is not there.
func isGone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }
