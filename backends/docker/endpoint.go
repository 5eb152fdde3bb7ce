package docker

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/docker/docker/client"

	"claude-runner/backends"
)

// endpoint is where an engine listens.
type endpoint struct {
	host   string // as DOCKER_HOST has it
	scheme string
	addr   string // path of a socket, or host:port
	remote error  // why the engine is not one of this host; nil where it is
}

var errRemote = errors.New("its sandboxes could not see this host's folders; use an engine on this host")

// findEndpoint reads the configured host, or finds one where that is empty.
func findEndpoint(host string) (endpoint, error) {
	if host == "" {
		host = os.Getenv(client.EnvOverrideHost)
	}
	if host == "" {
		host = "unix://" + usualSocket()
	}
	scheme, addr, ok := strings.Cut(host, "://")
	if !ok || addr == "" {
		return endpoint{}, fmt.Errorf("host %q: want unix:///var/run/docker.sock, or tcp://127.0.0.1:2375", host)
	}
	e := endpoint{host: host, scheme: scheme, addr: addr}
	switch scheme {
	case "unix":
		if !filepath.IsAbs(addr) {
			return endpoint{}, fmt.Errorf("host %q: the socket's path is not absolute, as in unix:///var/run/docker.sock", host)
		}
	case "tcp":
		u, err := url.Parse(host)
		if err != nil || u.Host == "" {
			return endpoint{}, fmt.Errorf("host %q: want tcp://ADDRESS:PORT", host)
		}
		if !isLoopback(u.Hostname()) {
			e.remote = fmt.Errorf("docker engine at %s is on another host: %w", host, errRemote)
		}
	case "ssh":
		e.remote = fmt.Errorf("docker engine at %s is on another host: %w", host, errRemote)
	default:
		return endpoint{}, fmt.Errorf("host %q: unknown scheme %q, want unix or tcp", host, scheme)
	}
	return e, nil
}

// usualSocket returns the first socket that is there of those where an engine
// usually listens, or else the first of these.
func usualSocket() string {
	const system = "/var/run/docker.sock"
	sockets := []string{system}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		sockets = append(sockets, filepath.Join(dir, "docker.sock"))
	}
	if home, err := os.UserHomeDir(); err == nil {
		sockets = append(sockets, home+"/.docker/run/docker.sock", home+"/.docker/desktop/docker.sock")
	}
	for _, s := range sockets {
		if _, err := os.Stat(s); err == nil {
			return s
		}
	}
	return system
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// client returns a client of the engine, which connects when it is used.
func (e endpoint) client() (*client.Client, error) {
	opts := []client.Opt{client.WithHost(e.host), client.WithVersionFromEnv(), client.WithAPIVersionNegotiation()}
	if e.scheme == "tcp" {
		opts = append([]client.Opt{client.WithTLSClientConfigFromEnv()}, opts...)
	}
	return client.NewClientWithOpts(opts...)
}

// owner returns whose the engine's socket is: of a rootless engine, the user
// who runs it. The socket's group is another than the user's.
func (e endpoint) owner() (backends.User, error) {
	own := backends.User{UID: os.Geteuid(), GID: os.Getegid()}
	if e.scheme != "unix" {
		return own, nil
	}
	info, err := os.Stat(e.addr)
	if err != nil {
		return own, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return own, fmt.Errorf("stat %s: its owner is not known on this system", e.addr)
	}
	if int(st.Uid) == own.UID {
		return own, nil
	}
	u, err := user.LookupId(strconv.Itoa(int(st.Uid)))
	if err != nil {
		return own, err
	}
	gid, err := strconv.Atoi(u.Gid)
	return backends.User{UID: int(st.Uid), GID: gid}, err
}
