package config_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/backends"
	"claude-runner/config"
)

// write writes a file below dir, and the folders it needs.
func write(t testing.TB, dir, name, content string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func load(t testing.TB, opts config.Options) *config.Config {
	t.Helper()
	cfg, err := config.Load(opts)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestDefaultsWithoutFile(t *testing.T) {
	dir := t.TempDir()
	cfg := load(t, options(t, dir, nil))

	profile := agent.DefaultProfile()
	profile.Name, profile.Backend = "default", []string{"docker", "podman", "local"}
	got := map[string]any{
		"server": cfg.Server, "data_dir": cfg.DataDir, "sandbox_user": cfg.SandboxUser, "allow_unsandboxed": cfg.AllowUnsandboxed,
		"limits": cfg.Limits, "model_api": cfg.ModelAPI, "log": cfg.Log, "shutdown_grace": cfg.ShutdownGrace,
		"backends": cfg.Backends, "default_agent": cfg.DefaultAgent, "agents": cfg.Agents, "path": cfg.Path, "warnings": len(cfg.Warnings),
	}
	want := map[string]any{
		"server": config.Server{Listen: "127.0.0.1:3456", BodyLimit: 1 << 20}, "data_dir": filepath.Join(dir, "data"),
		"sandbox_user": backends.User{UID: 10001, GID: 10001}, "allow_unsandboxed": false,
		"limits":    config.Limits{Concurrency: 8, QueueDepth: 100, Boots: 2, Memory: 8 << 30},
		"model_api": config.ModelAPI{Upstream: config.Upstream{BaseURL: "https://api.anthropic.com"}},
		"log":       config.Log{Level: slog.LevelInfo, Format: "text"}, "shutdown_grace": 30 * time.Second,
		"backends": map[string]config.Backend{
			"docker": {Kind: "docker", Config: &dockerConfig{}},
			"podman": {Kind: "podman", Config: &podmanConfig{Wait: 10 * time.Second}},
			"local":  {Kind: "local", Config: &localConfig{}},
		},
		"default_agent": "default", "agents": map[string]agent.Profile{"default": profile}, "path": "", "warnings": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults differ (-want +got):\n%s", diff)
	}
}

func TestPrecedence(t *testing.T) {
	const fileText = "server: {listen: \"127.0.0.1:1\"}\n"
	alias, prefixed := "PORT=2", "CLAUDE_RUNNER_SERVER__LISTEN=127.0.0.1:3"
	for _, test := range []struct {
		name    string
		file    string
		environ []string
		args    []string
		want    string
	}{
		{name: "default", want: "127.0.0.1:3456"},
		{name: "the file goes over the default", file: fileText, want: "127.0.0.1:1"},
		{name: "a variable without prefix over the file", file: fileText, environ: []string{alias}, want: "127.0.0.1:2"},
		{name: "one with prefix over that", file: fileText, environ: []string{prefixed, alias}, want: "127.0.0.1:3"},
		{name: "a flag over all", file: fileText, environ: []string{prefixed, alias}, args: []string{"--listen=127.0.0.1:4"}, want: "127.0.0.1:4"},
		{name: "an assignment over that", environ: []string{prefixed}, args: []string{"--set=server.listen=127.0.0.1:5", "--listen=127.0.0.1:4"}, want: "127.0.0.1:5"},
		{name: "an empty variable without prefix is not set", file: fileText, environ: []string{"PORT="}, want: "127.0.0.1:1"},
		{name: "PORT leaves the host", file: "server: {listen: '[::1]:1'}", environ: []string{alias}, want: "[::1]:2"},
		{name: "PORT leaves a host that is a reference", file: "server: {listen: '${env:HOST}:1'}", environ: []string{alias, "HOST=localhost"}, want: "localhost:2"},
		{name: "PORT is the port of a reference", file: "server: {listen: '${env:ADDRESS}'}", environ: []string{alias, "ADDRESS=localhost:1"}, want: "localhost:2"},
		{name: "a flag of its default value counts too", file: fileText, args: []string{"--listen=127.0.0.1:3456"}, want: "127.0.0.1:3456"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if test.file != "" {
				write(t, dir, "config.yaml", test.file)
			}
			if got := load(t, options(t, dir, test.environ, test.args...)).Server.Listen; got != test.want {
				t.Errorf("listen is %s, want %s", got, test.want)
			}
		})
	}
}

// A relative path is relative to where it is written.
func TestRelativePaths(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "etc/agent/AGENTS.md", "In etc.")
	write(t, dir, "agent/AGENTS.md", "In the working folder.")
	write(t, dir, "etc/key", "from etc")
	write(t, dir, "key", "from the working folder")
	write(t, dir, "etc/runner.yaml", "data_dir: data\nmodel_api: {api_key: '${file:key}'}\nagents: {a: {template: agent}, b: {template: agent}}\ndefault_agent: a\n")

	cfg := load(t, options(t, dir, []string{"CLAUDE_RUNNER_AGENTS__B__TEMPLATE=agent", "CLAUDE_RUNNER_MODEL_API__AUTH_TOKEN=${file:key}"}, "-c", "etc/runner.yaml"))
	for _, check := range []struct{ what, got, want string }{
		{"the file", cfg.Path, filepath.Join(dir, "etc", "runner.yaml")},
		{"data_dir of the file", cfg.DataDir, filepath.Join(dir, "etc", "data")},
		{"a template of the file", cfg.Agents["a"].Template, filepath.Join(dir, "etc", "agent")},
		{"a template of the environment", cfg.Agents["b"].Template, filepath.Join(dir, "agent")},
		{"a reference of the file", cfg.ModelAPI.APIKey.Reveal(), "from etc"},
		{"a reference of the environment", cfg.ModelAPI.AuthToken.Reveal(), "from the working folder"},
	} {
		if check.got != check.want {
			t.Errorf("%s is %q, want %q", check.what, check.got, check.want)
		}
	}
}

func TestReferencesAreResolved(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "crlf", "value\r\n")
	write(t, dir, "lines", "a\n\n")
	write(t, dir, "config.yaml", `
agents:
  a:
    env:
      PLAIN: "5$ {x} $env"
      ONE: ${env:ONE}
      TWO: "<${env:ONE}|${env:TWO}>"
      ESCAPED: "$${env:ONE} $$${env:ONE}"
      CRLF: ${file:crlf}
      LINES: ${file:lines}
      NOT_AGAIN: ${env:NESTED}
`)
	cfg := load(t, options(t, dir, []string{"ONE=1", "TWO=", "NESTED=${env:ONE}"}))
	want := map[string]string{
		"PLAIN": "5$ {x} $env", "ONE": "1", "TWO": "<1|>", "ESCAPED": "${env:ONE} $${env:ONE}", "CRLF": "value", "LINES": "a\n",
		"NOT_AGAIN": "${env:ONE}",
	}
	if diff := cmp.Diff(want, cfg.Agents["a"].Env); diff != "" {
		t.Errorf("env differs (-want +got):\n%s", diff)
	}
}

func TestReferenceToLargeFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "large", strings.Repeat("x", 1<<20))
	write(t, dir, "config.yaml", "model_api: {api_key: '${file:large}'}")
	_, err := config.Load(options(t, dir, nil))
	if err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("error is %v, want one that says that the file is too large", err)
	}
}

// Every problem is found by errors.As too.
func TestFieldErrorIsFound(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "config.yaml", "\nlimits: {boots: x}\n")
	_, err := config.Load(options(t, dir, nil))
	var field config.FieldError
	if !errors.As(err, &field) {
		t.Fatalf("error is %v, want a FieldError in it", err)
	}
	field.Message = ""
	if want := (config.FieldError{Path: "limits.boots", Source: "config.yaml", Line: 2}); field != want {
		t.Errorf("field is %+v, want %+v", field, want)
	}
}

func TestLoopback(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "localhost:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true,
		":1": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "localhost.example.com:1": false, "nonsense": false,
	} {
		if got := (config.Server{Listen: listen}).Loopback(); got != want {
			t.Errorf("Loopback of %s is %t, want %t", listen, got, want)
		}
	}
}

func TestOneCredential(t *testing.T) {
	for _, test := range []struct{ set, want agent.ModelAPI }{
		{set: agent.ModelAPI{}, want: agent.ModelAPI{}},
		{set: agent.ModelAPI{OAuthToken: "o"}, want: agent.ModelAPI{OAuthToken: "o"}},
		{set: agent.ModelAPI{OAuthToken: "o", AuthToken: "a"}, want: agent.ModelAPI{AuthToken: "a"}},
		{set: agent.ModelAPI{OAuthToken: "o", AuthToken: "a", APIKey: "k"}, want: agent.ModelAPI{APIKey: "k"}},
	} {
		m := config.Upstream{APIKey: test.set.APIKey, AuthToken: test.set.AuthToken, OAuthToken: test.set.OAuthToken, BaseURL: "http://x"}
		test.want.BaseURL = "http://x"
		if got := m.API(); got != test.want {
			t.Errorf("API has %#v, want %#v", got, test.want)
		}
	}
}

// A fallback that says no place is at the first one's.
func TestFallbacks(t *testing.T) {
	m := config.ModelAPI{
		Upstream:  config.Upstream{BaseURL: "http://x", APIKey: "one"},
		Fallbacks: []config.Upstream{{APIKey: "two"}, {BaseURL: "http://y", OAuthToken: "three"}},
	}
	want := []agent.ModelAPI{{BaseURL: "http://x", APIKey: "one"}, {BaseURL: "http://x", APIKey: "two"}, {BaseURL: "http://y", OAuthToken: "three"}}
	if got := m.APIs(); !slices.Equal(got, want) {
		t.Errorf("got %#v, want %#v", got, want)
	}
}

func TestRestartNeeded(t *testing.T) {
	const base = "agents: {a: {max_turns: 3}, b: {}}\ndefault_agent: a\n"
	for _, test := range []struct {
		name, next string
		want       []string
	}{
		{name: "nothing changed", next: base},
		{name: "agents", next: "agents: {a: {max_turns: 4}, c: {}}\ndefault_agent: c\n"},
		{name: "settings", next: base + "server: {listen: '127.0.0.1:1'}\nlimits: {boots: 3}\nlog: {level: debug}\nmodel_api: {api_key: k}\nshutdown_grace: 1s\n",
			want: []string{"server.listen", "limits.boots", "model_api.api_key", "log.level", "shutdown_grace"}},
		{name: "a backend's settings, one more, others gone", next: base + "backends: {docker: {kind: docker, host: x}, new: {kind: local}}\n",
			want: []string{"backends.docker", "backends.local", "backends.new", "backends.podman"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "config.yaml", base)
			running := load(t, options(t, dir, nil))
			next := test.next
			if strings.Contains(next, "backends:") {
				next = strings.ReplaceAll(next, "{max_turns: 3}", "{max_turns: 3, backend: new}")
				next = strings.ReplaceAll(next, "b: {}", "b: {backend: new}")
			}
			write(t, dir, "config.yaml", next)
			reloaded, err := running.Reload()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, config.RestartNeeded(running, reloaded)); diff != "" {
				t.Errorf("paths differ (-want +got):\n%s", diff)
			}
		})
	}
}

// What Show writes is a configuration, and the same one, where nothing is
// masked.
func TestShowIsReadBack(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "agent/AGENTS.md", "You are an agent.")
	file := write(t, dir, "config.yaml", `
limits: {boots: 7}
model_api: {api_key: "${env:KEY}"}
agents:
  a: {template: agent, max_turns: 4, timeout: 90s, limits: {memory: 1073741825}, env: {A: "$${x}", B: "1", C: "a: b # c"}, tools: []}
`)
	opts := options(t, dir, []string{"KEY=k"})
	first := load(t, opts)
	var shown strings.Builder
	if err := first.Show(&shown); err != nil {
		t.Fatal(err)
	}
	write(t, dir, filepath.Base(file), shown.String())
	second := load(t, opts)
	if diff := cmp.Diff(first.Agents, second.Agents); diff != "" {
		t.Errorf("agents differ (-first +second):\n%s", diff)
	}
	if changed := config.RestartNeeded(first, second); len(changed) > 0 {
		t.Errorf("these differ: %v", changed)
	}
}

// Whatever the sources say, Load gives a configuration or Errors, and neither
// shows what a reference stands for.
func FuzzLoad(f *testing.F) {
	cases, err := filepath.Glob(filepath.Join("testdata", "*", "config.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range cases {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data), "CLAUDE_RUNNER_AGENTS__A__ENV__B=${env:C}", "agents.a.tools=x,${env:TOKEN}")
	}
	const secret = "what-a-reference-stands-for"
	referred := []string{"TOKEN=" + secret, "PART=" + secret, "LISTEN=" + secret, "NUMBER=" + secret, "FOLDER=" + secret, "BACKEND=" + secret}
	f.Fuzz(func(t *testing.T, text, variable, assignment string) {
		dir := t.TempDir()
		write(t, dir, "config.yaml", text)
		cfg, err := config.Load(options(t, dir, append(referred, variable), "--set="+assignment))
		var shown strings.Builder
		if err == nil {
			if err := cfg.Show(&shown); err != nil {
				t.Fatal(err)
			}
			for _, w := range cfg.Warnings {
				shown.WriteString(w.Error())
			}
		} else {
			var all config.Errors
			if !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("the error is a %T: %v", err, err)
			}
			shown.WriteString(err.Error())
		}
		if strings.Contains(shown.String(), secret) {
			t.Errorf("a reference's value is shown:\n%s", shown.String())
		}
	})
}
