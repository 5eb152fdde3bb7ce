package main

import (
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"claude-runner/agent/scripted"
	"claude-runner/backends/docker"
	"claude-runner/backends/podman"
	"claude-runner/session"
)

// outageEnv says how long an engine hangs, or is away, in TestEngineFails. The
// short form is for every day.
const outageEnv = "ENGINE_OUTAGE"

// TestEngineFails holds that an engine that hangs, or is away, loses no task: a
// new one is refused with the reason, or runs elsewhere; one that runs goes on.
func TestEngineFails(t *testing.T) {
	outage := 3 * time.Second
	if text := os.Getenv(outageEnv); text != "" {
		var err error
		if outage, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	for kind, socket := range map[string]string{docker.Kind().Name: dockerSocket(), podman.Kind().Name: podmanSocket()} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p, w := startBehindWire(t, kind, socket)
			for name, fail := range map[string]func(){"hangs": w.hang, "is away": w.die} {
				t.Run(name+" meanwhile", func(t *testing.T) { testEngineMeanwhile(t, p, outage, fail, w.resume) })
			}
			t.Run("hangs before", func(t *testing.T) { testEngineBefore(t, p, kind, w) })
		})
	}
}

func dockerSocket() string {
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		return strings.TrimPrefix(host, "unix://")
	}
	return "/var/run/docker.sock"
}

func podmanSocket() string { return strings.TrimPrefix(os.Getenv("CONTAINER_HOST"), "unix://") }

// startBehindWire starts the program with a wire between it and an engine.
func startBehindWire(t *testing.T, kind, socket string) (*program, *wire) {
	t.Helper()
	w := startWire(t, "unix", socket)
	// A rootless engine's user is known by the owner of its socket.
	if info, err := os.Stat(socket); err == nil {
		owner := info.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // on Linux it is one
		if err := os.Chown(w.address(), int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	env := variables(t, kind, url)
	address := map[string]string{"docker": "CLAUDE_RUNNER_BACKENDS__DOCKER__HOST", "podman": "CLAUDE_RUNNER_BACKENDS__PODMAN__SOCKET"}[kind]
	env = with(env, "CLAUDE_RUNNER_AGENTS__WORKER__TIMEOUT", "5m", address, "unix://"+w.address(), "CLAUDE_RUNNER_AGENTS__LOOSE__BACKEND", kind+",local")
	p := startProgram(t, loadConfig(t, testConfig, with(env, "CLI_DIR", cliDir(t, "local"))))
	requireAgent(t, p, kind)
	return p, w
}

func testEngineMeanwhile(t *testing.T, p *program, outage time.Duration, fail, resume func()) {
	c := p.chat(t, "")
	s := c.stream("")
	held := c.held("")
	s.until("tool_start")
	fail()
	defer resume()
	c.letGo() // the agent goes on
	time.Sleep(outage)
	resume()
	r := <-held
	if r.status != http.StatusOK || r.Text != "held" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	s = c.stream("?after=0") // the other may have been let go: nobody answered for it
	s.until("task_complete")
	for i, e := range s.seen[1:] {
		if e.Seq != int64(i+1) {
			t.Errorf("event %d is %s", i+1, e.raw)
		}
	}
	if r := c.ask("what do you know?"); !r.Resumed || !strings.HasPrefix(r.Text, "turn 2:") {
		t.Errorf("the next task: %s", r.body)
	}
	awaitNoSandbox(t, p, r.Backend)
}

func testEngineBefore(t *testing.T, p *program, kind string, w *wire) {
	c := p.chat(t, "")
	c.ask("say: hi")
	awaitNoSandbox(t, p, kind)
	w.hang()
	defer w.resume()
	eventually(t, time.Minute, "the engine does not answer", func() bool { // it has answered a moment ago
		for _, s := range p.manager.Backends(t.Context()) {
			if s.Name == kind {
				return !s.Healthy
			}
		}
		return false
	})
	r := c.fail("say: again", http.StatusServiceUnavailable, string(session.CodeNoBackend))
	if !strings.Contains(r.Error, "does not answer") || r.header.Get("Retry-After") == "" {
		t.Errorf("it says %s", r.body)
	}
	if r := p.chat(t, "loose").send("say: elsewhere"); r.status != http.StatusOK || r.Backend != "local" {
		t.Errorf("a task that may run on local: %d %s", r.status, r.body)
	}
	w.resume()
	eventually(t, time.Minute, "the engine answers", func() bool { return c.send("say: back").status == http.StatusOK })
}

func awaitNoSandbox(t *testing.T, p *program, backend string) {
	t.Helper()
	b, _ := p.backends.Backend(backend)
	eventually(t, time.Minute, "no sandbox is left", func() bool {
		handles, err := b.List(t.Context())
		return err == nil && len(handles) == 0
	})
}
