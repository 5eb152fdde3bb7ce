package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"claude-runner/agent/clitest"
	"claude-runner/agent/scripted"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/local"
	"claude-runner/config"
)

// modelKey is of this run alone: the tests' own program, which has all
// constants in it, may lie where an agent can read.
var modelKey = "sk-ant-secret-" + strings.ToLower(rand.Text())

// The other secrets of the tests' configuration. Nobody may ever see them but
// the agents' tools.
const (
	profileSecret = "secret-of-the-profile-4712"
	acmeToken     = "secret-of-acme-4713"
)

// testConfig is the configuration of most tests.
const testConfig = "testdata/config.yaml"

// startModel serves a script on this host's loopback, and holds at the test's
// end that it had an answer to everything. It returns the address for
// model_api.base_url.
func startModel(t testing.TB, script string, o scripted.Options) (*scripted.Server, string) {
	t.Helper()
	return startModelOn(t, "127.0.0.1:0", script, o)
}

func startModelOn(t testing.TB, address, script string, o scripted.Options) (*scripted.Server, string) {
	t.Helper()
	s, err := scripted.Load(script)
	if err != nil {
		t.Fatal(err)
	}
	server := scripted.New(s, o)
	url, err := server.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		for _, problem := range server.Problems() {
			t.Errorf("scripted model: %s", problem)
		}
	})
	return server, url
}

// variables is the environment that testConfig refers to, for a backend.
func variables(t testing.TB, backend, modelURL string) map[string]string {
	t.Helper()
	return map[string]string{
		"BACKEND": backend, "DATA_DIR": backendtest.SharedDir(t), "CLI_DIR": cliDir(t, backend),
		"MODEL_URL": modelURL, "MODEL_KEY": modelKey, "PROFILE_SECRET": profileSecret, "ACME_API_TOKEN": acmeToken,
		"ACME_PORT": "3457", "SITE_PORT": "3458",
	}
}

// cliDir returns a folder in which every user finds the CLI as "claude", where
// the backend takes it from this host.
func cliDir(t testing.TB, backend string) string {
	t.Helper()
	dir := backendtest.SharedDir(t)
	if backend == local.Kind().Name {
		if err := os.Symlink(clitest.Path(t), filepath.Join(dir, "claude")); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// loadConfig reads a configuration with env as the environment.
func loadConfig(t testing.TB, path string, env map[string]string) *config.Config {
	t.Helper()
	cfg, err := config.Load(config.Options{
		Path: path, Kinds: kinds(), Unsandboxed: []string{local.Kind().Name},
		Environ: func() []string {
			var out []string
			for name, value := range env {
				out = append(out, name+"="+value)
			}
			return out
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// with returns env with more variables, in pairs.
func with(env map[string]string, more ...string) map[string]string {
	env = maps.Clone(env)
	for i := 0; i < len(more); i += 2 {
		env[more[i]] = more[i+1]
	}
	return env
}

// program is the whole program, serving on a port of its own.
type program struct {
	*app
	t      testing.TB
	base   string // http://host:port
	logs   *logs
	client *http.Client
	stop   func() error // as SIGTERM does; once
}

// startProgram starts the program. It is stopped at the test's end, if not
// before.
func startProgram(t testing.TB, cfg *config.Config) *program {
	t.Helper()
	p := &program{t: t, logs: &logs{}, client: clientOf(t)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if p.app, err = openApp(t.Context(), cfg, newLogger(cfg, p.logs)); err != nil {
		t.Fatal(errors.Join(err, ln.Close()))
	}
	p.base = "http://" + ln.Addr().String()
	serving, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- p.Serve(serving, ln) }()
	p.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-served, p.Close(context.Background()))
	})
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Errorf("stop the program: %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", p.logs.withoutRequests())
		}
	})
	return p
}

// clientOf returns a client whose connections end with the test.
func clientOf(t testing.TB) *http.Client {
	c := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// workspace names a file in a session's workspace on this host.
func (p *program) workspace(session string, name ...string) string {
	return filepath.Join(append([]string{p.cfg.DataDir, "sessions", session, "workspace"}, name...)...)
}

// logs collects what the program logs.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// withoutRequests is the log without its many lines about requests.
func (l *logs) withoutRequests() string {
	var b strings.Builder
	for line := range strings.Lines(l.String()) {
		if !strings.Contains(line, "msg=request ") && !strings.Contains(line, `msg="stream ended"`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// eventually waits until something is so.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain until %s", within, what)
		}
	}
}

// processes lists the command lines of this host's processes that hold text.
// Those of sandboxes are among them.
func processes(t testing.TB, text string) []string {
	t.Helper()
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		t.Skip("this system does not show its processes in /proc")
	}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		line := strings.ReplaceAll(string(data), "\x00", " ")
		if err == nil && strings.Contains(line, text) { // an error: it has ended
			found = append(found, filepath.Base(filepath.Dir(file))+": "+line)
		}
	}
	return found
}
