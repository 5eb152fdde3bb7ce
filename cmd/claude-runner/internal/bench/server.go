package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"claude-runner/backends"
	"claude-runner/backends/local"
	"claude-runner/cmd/claude-runner/internal/client"
	"claude-runner/config"
)

// server is a server in a process of its own, with data of its own.
type server struct {
	lab    *lab
	client client.Client
	dir    string // its data
	config string // its file
	cmd    *exec.Cmd
	log    *tail
	read   chan struct{} // closed when all of its log is read
}

// agentProfile is a profile of a bench's server, beside what all have.
type agentProfile map[string]any

// serve starts a server of profiles on one backend. It must be stopped.
func (l *lab) serve(ctx context.Context, backend string, cliDir string, agents map[string]agentProfile) (*server, error) {
	return l.start(ctx, l.settings(backend, cliDir, agents))
}

// settings are a server's of profiles on one backend.
func (l *lab) settings(backend string, cliDir string, agents map[string]agentProfile) map[string]any {
	for _, a := range agents {
		a.on(l, backend)
	}
	return map[string]any{
		"backends": map[string]any{backend: backendEntry(backend, cliDir)},
		"agents":   agents, "default_agent": slices.Sorted(maps.Keys(agents))[0],
		// Not to be what is measured.
		"limits": map[string]any{"concurrency": max(l.o.Burst, l.o.Conversations, overheadSessions, 8), "queue_depth": 20_000},
	}
}

// on fills in what all profiles of a bench have.
func (p agentProfile) on(l *lab, backend string) {
	p["backend"], p["image"], p["pull"], p["timeout"] = []string{backend}, l.o.Image, "never", "10m"
}

// backendEntry is a backend's entry in a configuration. The local backend has the
// CLI from cliDir.
func backendEntry(name, cliDir string) map[string]any {
	entry := map[string]any{"kind": name}
	if name == local.Kind().Name {
		entry["path"] = searchPath(cliDir)
	}
	return entry
}

// start starts a server of a configuration, all of whose other settings are the
// program's own.
func (l *lab) start(ctx context.Context, settings map[string]any) (*server, error) {
	s, err := l.newServer(settings)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// newServer is a server that has yet to be started.
func (l *lab) newServer(settings map[string]any) (*server, error) {
	s := &server{lab: l, dir: filepath.Join(l.dir, fmt.Sprintf("server-%d", l.servers.Add(1))), log: &tail{}, read: make(chan struct{})}
	s.config = s.dir + ".yaml"
	settings["server"] = map[string]any{"listen": "127.0.0.1:0"}
	settings["data_dir"] = s.dir
	settings["sandbox_user"] = l.sandboxUser()
	settings["model_api"] = map[string]any{"base_url": l.model.url, "api_key": "sk-ant-bench"}
	settings["shutdown_grace"] = "2s"
	data, err := json.Marshal(settings) // JSON is YAML
	if err == nil {
		err = os.WriteFile(s.config, data, 0o600)
	}
	if err == nil {
		s.cmd, err = l.program.Serve(s.config)
	}
	return s, err
}

// start has it serve. Where that fails nothing of it is left.
func (s *server) start(ctx context.Context) error {
	s.cmd.Env = append(s.cmd.Env, plainEnvironment()...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is the bench's alone
	stderr, err := s.cmd.StderrPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start a server: %w", err)
	}
	ready := make(chan string, 1)
	go s.readLog(stderr, ready)
	select {
	case s.client.Base = <-ready:
	case <-s.read:
		_ = s.cmd.Wait() // its log says more
		return fmt.Errorf("the server did not start: %s", s.log)
	case <-ctx.Done():
		return errors.Join(ctx.Err(), s.stop(ctx))
	}
	s.client.HTTP = s.lab.http
	return nil
}

// plainEnvironment is this process's, without what configures the runner, the
// agent or traces.
func plainEnvironment() []string {
	names := []string{"PORT", "MODEL", "MAX_TURNS", "IDLE_TIMEOUT_MS", "DOCKER_IMAGE", "AGENT_DIR", "SESSIONS_DIR"}
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(names, name) || strings.HasPrefix(name, "ANTHROPIC_") || strings.HasPrefix(name, "CLAUDE_") ||
			strings.HasPrefix(name, "OTEL_")
	})
}

var serverReady = regexp.MustCompile(`is ready.* url=(http://\S+)`)

// readLog reads the server's log to its end, and tells the server's address.
func (s *server) readLog(r io.Reader, ready chan<- string) {
	defer close(s.read)
	lines := bufio.NewScanner(r)
	for told := false; lines.Scan(); {
		if !told {
			if m := serverReady.FindStringSubmatch(lines.Text()); m != nil {
				ready <- m[1]
				told = true
			}
		}
		s.log.add(lines.Text())
	}
	_, _ = io.Copy(io.Discard, r) // a line too long, if anything: the server must not wait
}

// stop deletes the sessions and ends the server. What it does not end by itself
// is ended for it.
func (s *server) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	err := s.deleteAll(ctx)
	if signalled := s.cmd.Process.Signal(syscall.SIGTERM); signalled != nil {
		err = errors.Join(err, signalled)
	}
	kill := time.AfterFunc(time.Minute, func() { _ = s.cmd.Process.Kill() }) // it has ended otherwise
	<-s.read
	kill.Stop()
	if waited := s.cmd.Wait(); waited != nil {
		err = errors.Join(err, fmt.Errorf("the server: %w: %s", waited, s.log))
	}
	err = errors.Join(err, s.sweep(ctx))
	return errors.Join(err, os.RemoveAll(s.dir), os.RemoveAll(s.config))
}

// sweep ends the sandboxes that the server left, and reports them.
func (s *server) sweep(ctx context.Context) error {
	cfg, err := s.load()
	if err != nil {
		return err
	}
	registry, err := s.lab.program.OpenBackends(ctx, cfg)
	if err != nil {
		return err
	}
	defer registry.Close()
	var errs []error
	for name := range cfg.Backends {
		b, _ := registry.Backend(name)
		handles, err := b.List(ctx)
		if errors.Is(err, backends.ErrUnavailable) {
			continue // an idle server has all backends, those too that are not here
		}
		errs = append(errs, err)
		for _, h := range handles {
			errs = append(errs, fmt.Errorf("the server left sandbox %s on backend %s; it was removed", h.Name, name), backends.Remove(ctx, b, h, 0))
		}
	}
	return errors.Join(errs...)
}

func (s *server) load() (*config.Config, error) {
	return config.Load(config.Options{
		Path: s.config, Kinds: s.lab.program.Kinds, Unsandboxed: []string{local.Kind().Name}, Environ: func() []string { return nil },
	})
}

// deleteAll deletes every session.
func (s *server) deleteAll(ctx context.Context) error {
	if s.client.Base == "" { // it has not begun
		return nil
	}
	sessions, err := s.stored(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(8)
	for _, id := range sessions {
		g.Go(func() error { return s.delete(ctx, id) })
	}
	return g.Wait()
}

// stored lists the sessions that there are, by their ids.
func (s *server) stored(ctx context.Context) ([]string, error) {
	var sessions []struct {
		SessionID string
	}
	err := s.get(ctx, "/sessions", &sessions)
	var ids []string
	for _, one := range sessions {
		ids = append(ids, one.SessionID)
	}
	return ids, err
}

func (s *server) delete(ctx context.Context, session string) error {
	return s.call(ctx, http.MethodDelete, "/session/"+url.PathEscape(session), nil, nil)
}

func (s *server) get(ctx context.Context, path string, v any) error {
	return s.call(ctx, http.MethodGet, path, nil, v)
}

// call makes a request, and reads the answer into v, if there is one. An answer
// that is no success is an error.
func (s *server) call(ctx context.Context, method, path string, body []byte, v any) error {
	status, answer, err := s.client.Do(ctx, method, path, body)
	if err != nil {
		return err
	}
	if status >= 300 {
		return fmt.Errorf("%s %s: %w", method, path, &client.Refusal{Status: status, Body: answer})
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(answer, v)
}

// awaitWarm waits until n agents of a profile are booted ahead and the machine
// has come to rest.
func (s *server) awaitWarm(ctx context.Context, name string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(n)*5*time.Second)
	defer cancel()
	for {
		var states []struct {
			Warm []struct {
				Agent, Error string
				Ready        int
			}
		}
		if err := s.get(ctx, "/backends", &states); err != nil {
			return err
		}
		ready, reason := 0, ""
		for _, b := range states {
			for _, w := range b.Warm {
				if w.Agent == name {
					ready, reason = w.Ready, w.Error
				}
			}
		}
		if ready >= n {
			return pause(ctx, settling)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d agents are warm: %w %s", ready, n, err, reason)
		}
	}
}

// settling is how long an agent that has just booted is left to itself.
const settling = 300 * time.Millisecond

// tail keeps a log's last lines.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines = append(t.lines, line); len(t.lines) > 10 {
		t.lines = t.lines[1:]
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
