package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"claude-runner/agent/claude"
	"claude-runner/agent/clitest"
	"claude-runner/agent/scripted"
	"claude-runner/backends/backendtest"
)

// outcome is what a command came to.
type outcome struct {
	stdout, stderr string
	code           int
}

// command runs one command line, as a terminal would with stdin.
func command(ctx context.Context, stdin string, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code := exitCode(root, root.ExecuteContext(ctx))
	return outcome{stdout.String(), stderr.String(), code}
}

// setenv sets variables for the test.
func setenv(t *testing.T, env map[string]string) {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
}

func TestVersion(t *testing.T) {
	o := command(t.Context(), "", "version")
	if o.code != 0 || !strings.HasPrefix(o.stdout, "claude-runner ") || !strings.Contains(o.stdout, claude.TestedVersion) {
		t.Errorf("%+v", o)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"nonsense"}, {"run"}, {"run", "a", "b"}, {"serve", "--nonsense"}, {"init"}, {"run", "--env", "NO_SUCH_VARIABLE", "hi"}} {
		if o := command(t.Context(), "", args...); o.code != exitUsage || !strings.HasPrefix(o.stderr, "claude-runner: ") || o.stdout != "" {
			t.Errorf("%q: %+v", args, o)
		}
	}
}

func TestConfigCommands(t *testing.T) {
	setenv(t, variables(t, "docker", "http://127.0.0.1:9"))
	if o := command(t.Context(), "", "config", "check", "--config", testConfig); o.code != 0 || !strings.Contains(o.stdout, fmt.Sprintf("valid: %d agents, 3 backends", len(loadConfig(t, testConfig, variables(t, "docker", "http://127.0.0.1:9")).Agents))) {
		t.Errorf("check: %+v", o)
	}
	show := command(t.Context(), "", "config", "show", "--config", testConfig, "--set", "limits.concurrency=3")
	for _, want := range []string{"concurrency: 3", "default_agent: worker", "FROM_PROFILE: a profile's variable", "PROFILE_SECRET"} {
		if !strings.Contains(show.stdout, want) {
			t.Errorf("show has no %q:\n%s", want, show.stdout)
		}
	}
	for _, secret := range []string{modelKey, profileSecret, acmeToken} {
		if strings.Contains(show.stdout, secret) {
			t.Errorf("show has the secret %s:\n%s", secret, show.stdout)
		}
	}
	bad := filepath.Join(t.TempDir(), "config.yaml")
	text := "server: {lisen: x}\nlimits: {boots: many}\nagents:\n  a: {template: /nowhere, backend: docker}\n  b: {backend: cloud}\nbackends: {docker: {kind: docker}}\n"
	if err := os.WriteFile(bad, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	o := command(t.Context(), "", "config", "check", "--config", bad)
	for _, want := range []string{"config.yaml:1", "server.lisen", "listen", "config.yaml:2", "limits.boots", "config.yaml:4", "agents.a.template", "config.yaml:5", "agents.b.backend", "cloud"} {
		if !strings.Contains(o.stderr, want) {
			t.Errorf("a bad file: no word of %q:\n%s", want, o.stderr)
		}
	}
	if o.code != exitUsage || o.stdout != "" {
		t.Errorf("a bad file: %+v", o)
	}
}

// TestInit holds that what init makes is valid, and serves.
func TestInit(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	dir := filepath.Join(backendtest.SharedDir(t), "new")
	setenv(t, map[string]string{
		envServer: "", envKey: "not-a-setting",
		"ANTHROPIC_API_KEY": modelKey, "ANTHROPIC_BASE_URL": url,
		"CLAUDE_RUNNER_BACKENDS__LOCAL__PATH": cliDir(t, "local") + ",/usr/bin,/bin",
	})
	o := command(t.Context(), "", "init", dir)
	if o.code != 0 || !strings.Contains(o.stdout, "claude-runner serve") {
		t.Fatalf("init: %+v", o)
	}
	file := filepath.Join(dir, "config.yaml")
	o = command(t.Context(), "", "config", "check", "--config", file)
	if o.code != 0 || strings.Count(o.stdout, "warning") > strings.Count(o.stdout, clitest.EnvPath) {
		t.Errorf("check: %+v", o)
	}
	s := startServe(t, "--config", file, "--listen", "127.0.0.1:0", "--set", "agents.assistant.backend=local")
	r := s.chat(t, "").ask("echo this")
	if r.Agent != "assistant" || r.Text != "echo this" {
		t.Errorf("a task: %s", r.body)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "runner.db")); err != nil {
		t.Errorf("the data folder: %v", err)
	}
	if o = command(t.Context(), "", "init", dir); o.code != exitUsage || !strings.Contains(o.stderr, "is there already") {
		t.Errorf("init again: %+v", o)
	}
}

var readyLine = regexp.MustCompile(`is ready" url=(\S+)`)

// startServe runs the command serve until the test's end.
func startServe(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{t: t, logs: &logs{}, client: clientOf(t)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		root := rootCommand()
		root.SetArgs(append([]string{"serve"}, args...))
		root.SetOut(p.logs)
		root.SetErr(p.logs)
		err := root.ExecuteContext(ctx)
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", p.logs.withoutRequests())
		}
	})
	eventually(t, waitLong, "the server is ready", func() bool {
		if m := readyLine.FindStringSubmatch(p.logs.String()); m != nil {
			p.base = m[1]
		}
		return p.base != ""
	})
	return p
}

// TestReload holds that changed profiles are taken over while a task runs, by
// themselves and at SIGHUP, and that a bad file changes nothing.
func TestReload(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	setenv(t, variables(t, "local", url))
	file := filepath.Join(t.TempDir(), "config.yaml")
	write := func(agents string) {
		t.Helper()
		text := `
server: {listen: "127.0.0.1:0"}
data_dir: ${env:DATA_DIR}
model_api: {base_url: "${env:MODEL_URL}", api_key: "${env:MODEL_KEY}"}
backends: {local: {kind: local, path: ["${env:CLI_DIR}", /usr/bin, /bin]}}
default_agent: worker
agents:
  worker: {tools: [Bash]}
` + agents
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	p := startServe(t, "--config", file)
	names := func() string {
		var agents []struct{ Name, Description string }
		p.get(t, "/agents", &agents)
		var out []string
		for _, a := range agents {
			out = append(out, strings.TrimSpace(a.Name+" "+a.Description))
		}
		return strings.Join(out, ", ")
	}
	c := p.chat(t, "")
	s := c.stream("")
	running := c.begin("run: sleep 1000")
	s.until("tool_start")

	write("  helper: {description: one}\n")
	eventually(t, waitLong, "the file is taken over", func() bool { return names() == "helper one, worker" })
	write("  helper: {description: one, modell: x}\n")
	eventually(t, waitLong, "the mistake is told", func() bool { return strings.Contains(p.logs.String(), "agents.helper.modell") })
	if got := names(); got != "helper one, worker" {
		t.Errorf("with a bad file the agents are %s", got)
	}
	before := p.logs.String()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, waitLong, "SIGHUP has the file read", func() bool {
		return strings.Count(p.logs.String(), "agents.helper.modell") > strings.Count(before, "agents.helper.modell")
	})
	if got := c.details(); !got.Busy {
		t.Errorf("the task that runs: %+v", got)
	}
	c.call("POST", "/task/ID/abort")
	(<-running).want(t, 409, "aborted")
	if r := p.chat(t, "helper").ask("echo this"); r.Agent != "helper" {
		t.Errorf("the new agent: %s", r.body)
	}
}

// TestServeRefuses holds that a server which can't start says why and ends.
func TestServeRefuses(t *testing.T) {
	env := variables(t, "docker", "http://127.0.0.1:9")
	setenv(t, env)
	taken := startProgram(t, loadConfig(t, testConfig, with(env, "DATA_DIR", t.TempDir())))
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"address in use":         {[]string{"--listen", strings.TrimPrefix(taken.base, "http://")}, "address already in use; choose another address"},
		"local for everybody":    {[]string{"--listen", "0.0.0.0:0"}, "allow_unsandboxed"},
		"no such file":           {[]string{"--config", "/nonexistent.yaml"}, "/nonexistent.yaml"},
		"unwritable data folder": {[]string{"--data-dir", "/proc/claude-runner"}, "set data_dir"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), waitLong, errors.New("it serves"))
			defer cancel()
			o := command(ctx, "", append([]string{"serve", "--config", testConfig}, tt.args...)...)
			if o.code == 0 || !strings.Contains(o.stderr, tt.want) {
				t.Errorf("code %d, want %q in:\n%s", o.code, tt.want, o.stderr)
			}
		})
	}
}

func TestDoctor(t *testing.T) {
	setenv(t, variables(t, "local", "http://127.0.0.1:9"))
	o := command(t.Context(), "", "doctor", "--config", testConfig)
	for _, want := range []string{"✓ configuration: ", "✓ credentials: there, for http://127.0.0.1:9", "✓ gateway: starts", "✓ backend local: ", "allowlist are not enforced", "✓ agent worker: runs on local", "isolates nothing"} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("no %q:\n%s", want, o.stdout)
		}
	}
	if o.code != 0 || strings.Contains(o.stdout, modelKey) {
		t.Errorf("code %d:\n%s%s", o.code, o.stdout, o.stderr)
	}

	// Now one after the other of what it needs is missing.
	t.Setenv("MODEL_KEY", "")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("CLI_DIR", t.TempDir())
	t.Setenv("CLAUDE_RUNNER_BACKENDS__DOCKER__HOST", "unix:///nonexistent/docker.sock")
	t.Setenv("CLAUDE_RUNNER_BACKENDS__PODMAN__SOCKET", "/nonexistent/podman.sock")
	o = command(t.Context(), "", "doctor", "--config", testConfig)
	for _, want := range []string{
		"✗ credentials: ", "ANTHROPIC_API_KEY",
		"✗ backend docker: ", "/nonexistent/docker.sock", "✗ backend podman: ", "/nonexistent/podman.sock",
		"✗ backend local: the CLI does not start", "✗ agent worker: none of its backends works",
	} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("with everything missing, no %q:\n%s", want, o.stdout)
		}
	}
	if o.code != exitFailed {
		t.Errorf("with everything missing, code %d", o.code)
	}
}
