package podman

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// serviceStartTimeout bounds how long a service takes to listen.
	serviceStartTimeout = 6 * time.Second
	// serviceStopTimeout is how long a service may take to end before it is killed.
	serviceStopTimeout = 5 * time.Second
	// A service that dies is started again this often within that time.
	serviceStarts = 5
	serviceWindow = time.Minute
)

// service is the `podman system service` that the runner starts where nothing
// listens at the socket. One that has died is started again when it is needed.
// Sandboxes do not depend on it: they go on running without.
type service struct {
	socket string
	log    *slog.Logger

	mu      sync.Mutex
	running *process
	starts  []time.Time // the last ones, within serviceWindow
	stopped bool
}

// process is one run of the service.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended
}

func newService(socket string, log *slog.Logger) *service {
	return &service{socket: socket, log: log}
}

// ensure returns once something listens at the socket, and starts the service
// where nothing does.
func (s *service) ensure(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errClosed
	}
	ctx, cancel := context.WithTimeout(ctx, serviceStartTimeout)
	defer cancel()
	var fresh *process // what was started here
	for !s.listens(ctx) {
		if s.running == nil || s.running != fresh && s.running.ended() {
			if err := s.start(); err != nil {
				return fmt.Errorf("start podman system service: %w", err)
			}
			fresh = s.running
		}
		select {
		case <-s.running.done:
			if s.running == fresh {
				return fmt.Errorf("podman system service has ended: %s; its words are in the log", s.running.cmd.ProcessState)
			}
		case <-ctx.Done():
			return fmt.Errorf("podman system service does not listen at %s: %w", s.socket, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func (s *service) listens(ctx context.Context) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// start runs the service as a process group of its own, so that a terminal's
// interrupt is the runner's alone.
func (s *service) start() error {
	now := time.Now()
	for len(s.starts) > 0 && now.Sub(s.starts[0]) > serviceWindow {
		s.starts = s.starts[1:]
	}
	if len(s.starts) >= serviceStarts {
		return fmt.Errorf("it was started %d times within %v and has died each time; its words are in the log", serviceStarts, serviceWindow)
	}
	s.starts = append(s.starts, now)

	if err := os.MkdirAll(filepath.Dir(s.socket), 0o700); err != nil {
		return err
	}
	words, child, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("podman", "system", "service", "--time", "0", "unix://"+s.socket)
	cmd.Env = serviceEnv()
	cmd.Stdout, cmd.Stderr = child, child
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	child.Close()
	if err != nil {
		words.Close()
		return fmt.Errorf("%w; install Podman, or set start_service: false", err)
	}
	s.log.Info("podman system service started", "pid", cmd.Process.Pid, "socket", s.socket)
	p := &process{cmd: cmd, done: make(chan struct{})}
	s.running = p
	said := make(chan struct{})
	go func() {
		s.listen(words)
		close(said)
	}()
	go func() {
		_ = cmd.Wait() // the state says it all
		s.log.Info("podman system service ended", "pid", cmd.Process.Pid, "state", cmd.ProcessState.String())
		// What it has left, such as the process that holds a rootless user
		// namespace, may still hold the pipe.
		select {
		case <-said:
		case <-time.After(100 * time.Millisecond):
		}
		words.Close()
		<-said
		close(p.done)
	}()
	return nil
}

// serviceEnv returns what the service needs of the runner's environment: not
// its secrets, and not CONTAINER_HOST, which would make it a client.
func serviceEnv() []string {
	names := []string{
		"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "DBUS_SESSION_BUS_ADDRESS", "REGISTRY_AUTH_FILE",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	}
	families := []string{"XDG_", "LC_", "CONTAINERS_", "SSL_CERT_"}
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return !slices.Contains(names, name) && !slices.ContainsFunc(families, func(f string) bool { return strings.HasPrefix(name, f) })
	})
}

// listen passes on to the log what the service says.
func (s *service) listen(words io.ReadCloser) {
	lines := bufio.NewScanner(words)
	for lines.Scan() {
		s.log.Warn("podman system service: " + lines.Text())
	}
	_, _ = io.Copy(io.Discard, words) // behind a line that is too long
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends the service, if it is the runner's.
func (s *service) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.running == nil {
		return nil
	}
	pid := s.running.cmd.Process.Pid
	if s.running.ended() {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end podman system service, pid %d: %w", pid, err)
	}
	select {
	case <-s.running.done:
		return nil
	case <-time.After(serviceStopTimeout):
	}
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill podman system service, pid %d: %w", pid, err)
	}
	<-s.running.done
	return nil
}
