package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"claude-runner/agent/scripted"
)

// TestBadInput holds that a client's mistake is told as one, and that the server
// is as well afterwards as before.
func TestBadInput(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	p := startProgram(t, loadConfig(t, testConfig, variables(t, "local", url)))
	requireAgent(t, p, "local")
	p.chat(t, "").ask("say: I am the worker's")
	mine := p.chat(t, "").id

	task := func(fields string) string { return `{"sessionId":"s","message":"say: hi",` + fields + `}` }
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		field                    string // named by the error
	}{
		{"no JSON", "POST", "/task", `sessionId=s`, 400, ""},
		{"half of JSON", "POST", "/task", `{"sessionId":"s","mess`, 400, ""},
		{"no object", "POST", "/task", `["s"]`, 400, ""},
		{"nothing", "POST", "/task", ``, 400, ""},
		{"no session", "POST", "/task", `{"message":"hi"}`, 400, "sessionId"},
		{"no message", "POST", "/task", `{"sessionId":"s"}`, 400, "message"},
		{"blank message", "POST", "/task", `{"sessionId":"s","message":" \n"}`, 400, "message"},
		{"mistyped message", "POST", "/task", `{"sessionId":"s","message":{"text":"hi"}}`, 400, "message"},
		{"misspelt field", "POST", "/task", task(`"contxt":"x"`), 400, "contxt"},
		{"session that walks out", "POST", "/task", `{"sessionId":"../../etc","message":"hi"}`, 400, "sessionId"},
		{"session too long", "POST", "/task", fmt.Sprintf(`{"sessionId":%q,"message":"hi"}`, strings.Repeat("a", 129)), 400, "sessionId"},
		{"mistyped env", "POST", "/task", task(`"env":{"N":1}`), 400, "env.N"},
		{"env with a bad name", "POST", "/task", task(`"env":{"A B":"x"}`), 400, "env"},
		{"env of the runner's", "POST", "/task", task(`"env":{"ANTHROPIC_BASE_URL":"http://x"}`), 400, "env.ANTHROPIC_BASE_URL"},
		{"body too large", "POST", "/task", task(`"context":"` + strings.Repeat("x", 2<<20) + `"`), 413, ""},
		{"unknown agent", "POST", "/task", task(`"agent":"nobody"`), 404, "agent"},
		{"unknown backend", "POST", "/task", task(`"backend":"nowhere"`), 404, "backend"},
		{"another agent", "POST", "/task", `{"sessionId":"` + mine + `","message":"hi","agent":"strict"}`, 409, "agent"},
		{"unknown session", "GET", "/session/nobody", "", 404, ""},
		{"session that walks out of its path", "DELETE", "/session/..%2F..%2Fetc", "", 400, "sessionId"},
		{"reset of an unknown session", "POST", "/session/nobody/reset", "", 404, ""},
		{"abort of an unknown session", "POST", "/task/nobody/abort", "", 404, ""},
		{"unknown task", "GET", "/task/nothing", "", 404, ""},
		{"unknown state", "GET", "/tasks?status=asleep", "", 400, "status"},
		{"stream without WebSocket", "GET", "/stream/s", "", 426, ""},
		{"unknown path", "GET", "/nothing", "", 404, ""},
		{"wrong method", "PUT", "/task", "{}", 405, ""},
	} {
		r, err := p.do(t.Context(), tt.method, tt.path, tt.body)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if r.status != tt.status || r.Error == "" || r.Code == "" || r.Field != tt.field {
			t.Errorf("%s: %d %.300s, want %d about field %q", tt.name, r.status, r.body, tt.status, tt.field)
		}
	}
	if health, err := p.do(t.Context(), http.MethodGet, "/health", ""); err != nil || health.status != http.StatusOK {
		t.Errorf("GET /health: %d %s, %v", health.status, health.body, err)
	}
	if r := p.chat(t, "").ask("what do you know?"); !strings.HasPrefix(r.Text, "turn 2:") {
		t.Errorf("a task afterwards: %s", r.body)
	}
}

// TestNoBackend holds that a client is told why no backend can take its task.
func TestNoBackend(t *testing.T) {
	env := variables(t, "docker", "http://127.0.0.1:9")
	env["CLAUDE_RUNNER_BACKENDS__DOCKER__HOST"] = "unix:///nonexistent/docker.sock"
	env["CLAUDE_RUNNER_BACKENDS__PODMAN__SOCKET"] = "/nonexistent/podman.sock"
	env["CLAUDE_RUNNER_AGENTS__WORKER__BACKEND"] = "docker,podman"
	p := startProgram(t, loadConfig(t, testConfig, env))
	r := p.chat(t, "").fail("say: hi", http.StatusServiceUnavailable, "no_backend")
	for _, reason := range []string{"docker: ", "/nonexistent/docker.sock", "podman: ", "/nonexistent/podman.sock"} {
		if !strings.Contains(r.Error, reason) {
			t.Errorf("the error does not say %q: %s", reason, r.Error)
		}
	}
}

// TestNoCredentials holds that a client is told what to set.
func TestNoCredentials(t *testing.T) {
	t.Setenv("HOME", t.TempDir()) // where nobody has logged in
	p := startProgram(t, loadConfig(t, testConfig, with(variables(t, "local", "http://127.0.0.1:9"), "MODEL_KEY", "")))
	r := p.chat(t, "").fail("say: hi", http.StatusServiceUnavailable, "no_credentials")
	if !strings.Contains(r.Error, "ANTHROPIC_API_KEY") {
		t.Errorf("the error says %q", r.Error)
	}
}

// TestFullQueue holds that what does not fit into the queue is refused at once,
// and what fits is done.
func TestFullQueue(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	p := startProgram(t, loadConfig(t, testConfig, with(variables(t, "local", url), "CLAUDE_RUNNER_LIMITS__QUEUE_DEPTH", "1")))
	requireAgent(t, p, "local")
	c := p.chat(t, "")
	held := c.held("")
	waiting := c.begin("say: I waited")
	eventually(t, waitLong, "a task waits", func() bool { return c.details().Queued == 1 })
	r := c.fail("say: hi", http.StatusTooManyRequests, "queue_full")
	if r.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	c.letGo()
	if r := <-held; r.status != http.StatusOK {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := <-waiting; r.status != http.StatusOK || r.Text != "I waited" {
		t.Errorf("%d %s", r.status, r.body)
	}
}
