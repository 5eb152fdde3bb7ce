package podman

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"claude-runner/backends"
)

// address is where the service listens.
type address struct {
	uri    string // for the bindings
	path   string // of the unix socket; "" for another kind
	remote string // why the service can not be used where it is not on this host
}

// findAddress works out the service's address from the configuration, the
// environment and the places where Podman itself listens.
func findAddress(configured string) (address, error) {
	for _, a := range []string{configured, os.Getenv("CONTAINER_HOST")} {
		if a != "" {
			return parseAddress(a)
		}
	}
	return unixAddress(defaultSocket()), nil
}

func defaultSocket() string {
	if os.Geteuid() == 0 {
		return "/run/podman/podman.sock"
	}
	runtimeDir := os.Getenv("XDG_RUNTIME_DIR")
	if runtimeDir == "" {
		runtimeDir = fmt.Sprintf("/run/user/%d", os.Geteuid())
	}
	return filepath.Join(runtimeDir, "podman", "podman.sock")
}

func parseAddress(a string) (address, error) {
	if filepath.IsAbs(a) {
		return unixAddress(a), nil
	}
	u, err := url.Parse(a)
	if err != nil {
		return address{}, fmt.Errorf("address of the podman service: %w", err)
	}
	switch {
	case u.Scheme == "unix" && u.Host == "" && filepath.IsAbs(u.Path):
		return unixAddress(u.Path), nil
	case u.Scheme == "tcp" && isLoopback(u.Hostname()):
		return address{uri: a}, nil
	case u.Scheme == "tcp" || u.Scheme == "ssh":
		return address{uri: a, remote: fmt.Sprintf("the podman service at %s is on another host, which can not read this host's folders; use a service on this host (podman system service)", u.Redacted())}, nil
	default:
		return address{}, fmt.Errorf("address of the podman service %q: want an absolute path, unix:///PATH or tcp://127.0.0.1:PORT", a)
	}
}

func unixAddress(path string) address { return address{uri: "unix://" + path, path: path} }

// isLoopback reports whether host names this host's loopback interface.
func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// owner returns the user who owns the socket, nil where that is root or there
// is none to be seen.
func (a address) owner() *backends.User {
	if a.path == "" {
		return nil
	}
	info, err := os.Stat(a.path)
	if err != nil {
		return nil
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 {
		return nil
	}
	return &backends.User{UID: int(st.Uid), GID: int(st.Gid)}
}

// lock takes what all runners on this host that use the same socket share, and
// returns what gives it back. It is a lock on the socket's folder, which has no
// other meaning; where that can not be had, the runner does without.
func (a address) lock(ctx context.Context) (func(), error) {
	if a.path == "" {
		return func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(a.path))
	if err != nil {
		return func() {}, nil
	}
	for {
		switch err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil:
			return func() { dir.Close() }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			dir.Close()
			return func() {}, nil
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			dir.Close()
			return nil, err
		}
	}
}

// advice says how to mend that the service does not answer, as the end of a
// sentence.
func (a address) advice(err error) string {
	switch {
	case !isDialError(err) || errors.Is(err, context.Canceled):
		return ""
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("; the runner's user may not use %s: run the runner as the socket's owner, or as root", a.uri)
	case a.path == "":
		return "; start the service: podman system service --time 0 " + a.uri
	case strings.HasPrefix(a.path, "/run/user/"):
		return "; start the service as the sandboxes' user: systemctl --user enable --now podman.socket (and loginctl enable-linger, so that it outlives the login), or without systemd: podman system service --time 0 " + a.uri + ", or set start_service: true"
	default:
		return "; start the service: systemctl enable --now podman.socket, or without systemd: podman system service --time 0 " + a.uri + ", or set start_service: true"
	}
}
