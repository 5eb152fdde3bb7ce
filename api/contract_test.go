package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/session"
)

// without returns m without the named fields, which must be there.
func without(t *testing.T, m map[string]any, names ...string) map[string]any {
	t.Helper()
	for _, n := range names {
		if _, ok := m[n]; !ok {
			t.Errorf("no %q in %v", n, m)
		}
		delete(m, n)
	}
	return m
}

func TestTask(t *testing.T) {
	w := newWorld(t)
	const message = "echo one; echo two"
	a := w.post("user-1", message, "context", "Channel: web-chat")
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	first := a.object(t)
	id, _ := first["taskId"].(string)
	usage := map[string]any{"inputTokens": 3., "outputTokens": 5., "cacheReadInputTokens": 0., "cacheCreationInputTokens": 0.}
	want := map[string]any{
		"sessionId": "user-1", "agent": "shell", "backend": "local", "status": "succeeded",
		"output": map[string]any{"response": "one\ntwo"}, "text": "one\ntwo",
		"cost": 0.25, "tools": []any{"sh"}, "resumed": false, "model": "sh", "turns": 1., "usage": usage,
	}
	if diff := cmp.Diff(want, without(t, first, "taskId", "duration", "createdAt", "startedAt", "endedAt")); diff != "" {
		t.Errorf("POST /task (-want +got):\n%s", diff)
	}

	want["message"], want["context"] = message, "Channel: web-chat"
	if diff := cmp.Diff(want, without(t, w.get("/task/"+id), "taskId", "duration", "createdAt", "startedAt", "endedAt")); diff != "" {
		t.Errorf("GET /task/:taskId (-want +got):\n%s", diff)
	}
	if again := w.post("user-1", "echo again").object(t); again["resumed"] != true || again["text"] != "again" {
		t.Errorf("the second task: %v", again)
	}
}

// TestEnv holds env against its contract: tools see it, nobody else does.
func TestEnv(t *testing.T) {
	w := newWorld(t)
	done := w.do(http.MethodPost, "/task", `{"sessionId":"s","message":"echo ${#TOKEN}","env":{"TOKEN":"8675309-secret"}}`).object(t)
	if done["text"] != "14" {
		t.Errorf("the agent saw a value of length %v, want 14", done["text"])
	}
	id := done["taskId"].(string)
	failed := w.do(http.MethodPost, "/task", `{"sessionId":"s2","message":"exit 3","env":{"TOKEN":"8675309-secret"}}`)
	for what, text := range map[string]string{
		"a failure": failed.body, "the log": w.logs.String(),
		"a task": w.do(http.MethodGet, "/task/"+id, "").body, "tasks": w.do(http.MethodGet, "/tasks", "").body,
		"a session": w.do(http.MethodGet, "/session/s", "").body, "sessions": w.do(http.MethodGet, "/sessions", "").body,
		"agents": w.do(http.MethodGet, "/agents", "").body, "backends": w.do(http.MethodGet, "/backends", "").body,
	} {
		if strings.Contains(text, "8675309-secret") || strings.Contains(text, "sk-model-key") {
			t.Errorf("%s shows a secret: %s", what, text)
		}
	}
}

func TestSessions(t *testing.T) {
	w := newWorld(t)
	if body := w.do(http.MethodGet, "/sessions", "").body; body != "[]" {
		t.Errorf("no sessions: %s", body)
	}
	w.post("idle", "echo hi")
	held := w.held("busy")
	waits := w.background("busy", "echo next")
	w.queued("busy", 1)

	var list []map[string]any
	if err := json.Unmarshal([]byte(w.do(http.MethodGet, "/sessions", "").body), &list); err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	busy, idle := without(t, list[0], "currentTask", "created", "lastActive"), without(t, list[1], "created", "lastActive")
	if diff := cmp.Diff(map[string]any{
		"sessionId": "busy", "agent": "shell", "state": "busy", "busy": true, "queued": 1., "turns": 0., "cost": 0.,
	}, busy); diff != "" {
		t.Errorf("busy (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{
		"sessionId": "idle", "agent": "shell", "state": "idle", "busy": false, "queued": 0., "turns": 1., "cost": 0.25,
	}, idle); diff != "" {
		t.Errorf("idle (-want +got):\n%s", diff)
	}
	w.letGo("busy")
	if a := <-held; a.status != http.StatusOK {
		t.Errorf("held: %d %s", a.status, a.body)
	}
	if a := <-waits; a.status != http.StatusOK {
		t.Errorf("queued: %d %s", a.status, a.body)
	}
}

func TestAbort(t *testing.T) {
	w := newWorld(t)
	held := w.held("s")
	waits := w.background("s", "echo next")
	w.queued("s", 1)
	a := w.do(http.MethodPost, "/task/s/abort", "").object(t)
	if ids, _ := a["aborted"].([]any); a["sessionId"] != "s" || len(ids) != 2 {
		t.Errorf("abort: %v", a)
	}
	for name, ch := range map[string]<-chan answer{"running": held, "queued": waits} {
		if a := <-ch; a.status != http.StatusConflict || a.object(t)["code"] != "aborted" || a.object(t)["status"] != "aborted" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := w.do(http.MethodPost, "/task/s/abort", ""); a.body != `{"aborted":[],"sessionId":"s"}` {
		t.Errorf("nothing to abort: %d %s", a.status, a.body)
	}
	if a := w.post("s", "echo works"); a.status != http.StatusOK {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}

func TestCancelTask(t *testing.T) {
	w := newWorld(t)
	held := w.held("s")
	id, _ := w.get("/session/s")["currentTask"].(string)
	if got := w.get("/task/" + id); got["status"] != "running" || got["output"] != nil || got["endedAt"] != nil {
		t.Errorf("running: %v", got)
	}
	if a := w.do(http.MethodDelete, "/task/"+id, ""); a.status != http.StatusOK || a.object(t)["status"] != "aborted" {
		t.Errorf("cancel: %d %s", a.status, a.body)
	}
	if a := <-held; a.status != http.StatusConflict {
		t.Errorf("its answer: %d %s", a.status, a.body)
	}
	if a := w.do(http.MethodDelete, "/task/"+id, ""); a.status != http.StatusConflict || a.object(t)["code"] != "task_ended" {
		t.Errorf("again: %d %s", a.status, a.body)
	}
}

func TestResetAndDelete(t *testing.T) {
	w := newWorld(t)
	w.post("s", "echo kept > data/note; ls data")
	if a := w.do(http.MethodPost, "/session/s/reset", ""); a.body != `{"reset":true,"sessionId":"s"}` {
		t.Errorf("reset: %d %s", a.status, a.body)
	}
	if got := w.get("/session/s"); got["turns"] != 0. || got["cost"] != 0.25 {
		t.Errorf("after reset: %v", got)
	}
	if again := w.post("s", "ls data").object(t); again["resumed"] != false || again["text"] != nil {
		t.Errorf("after reset: %v", again)
	}
	if a := w.do(http.MethodDelete, "/session/s", ""); a.body != `{"deleted":"s","sessionId":"s"}` {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	for _, path := range []string{"/session/s", "/session/nobody"} {
		if a := w.do(http.MethodGet, path, ""); a.status != http.StatusNotFound || a.object(t)["code"] != "session_not_found" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if _, err := os.Stat(w.path("s", "")); !os.IsNotExist(err) {
		t.Errorf("the workspace is still there: %v", err)
	}
}

// TestEncodedID holds that an id may be percent-encoded, and that + is itself.
func TestEncodedID(t *testing.T) {
	w := newWorld(t)
	const id = "a+b@c:d.e_f-1"
	w.post(id, "echo hi")
	for _, path := range []string{"/session/" + id, "/session/a%2Bb%40c%3Ad.e_f-1", "/session/" + id + "/"} {
		if got := w.get(path); got["sessionId"] != id {
			t.Errorf("%s: %v", path, got)
		}
	}
}

func TestTasks(t *testing.T) {
	w := newWorld(t)
	for _, s := range []string{"a", "b", "a"} {
		w.post(s, "echo "+s)
	}
	w.post("c", "exit 1", "agent", "other")
	list := func(query string) (sessions string, next string) {
		t.Helper()
		page := w.get("/tasks?" + query)
		for _, one := range page["tasks"].([]any) {
			sessions += one.(map[string]any)["sessionId"].(string)
		}
		next, _ = page["nextCursor"].(string)
		return sessions, next
	}
	for query, want := range map[string]string{
		"": "caba", "sessionId=a": "aa", "status=failed": "c", "status=queued": "", "agent=other": "c",
		"sessionId=a&status=succeeded&agent=shell": "aa", "limit=500": "caba", "sessionId=nobody": "",
	} {
		if got, next := list(query); got != want || next != "" {
			t.Errorf("?%s: %q, next %q, want %q", query, got, next, want)
		}
	}
	first, next := list("limit=3")
	second, last := list("limit=3&cursor=" + next)
	if first != "cab" || second != "a" || last != "" {
		t.Errorf("pages %q and %q, then %q", first, second, last)
	}
}

// TestFailures holds the status of tasks that fail, and that such an answer is
// an error with the task beside it.
func TestFailures(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.profile.Timeout = 2 * time.Second })
	for message, want := range map[string]struct {
		status int
		code   string
	}{
		"exit 7":                       {http.StatusBadGateway, "agent_exited"},
		"kill -9 $$":                   {http.StatusBadGateway, "sandbox_killed"},
		"sleep 60":                     {http.StatusGatewayTimeout, "timed_out"},
		"echo FAIL model_rate_limited": {http.StatusBadGateway, "model_rate_limited"},
		"echo FAIL budget_exceeded":    {http.StatusPaymentRequired, "budget_exceeded"},
	} {
		a := w.post("s", message)
		got := a.object(t)
		if a.status != want.status || got["code"] != want.code || got["error"] == "" {
			t.Errorf("%s: %d %s, want %d %s", message, a.status, a.body, want.status, want.code)
		}
		if got["cost"] != 0.25 || got["sessionId"] != "s" || got["taskId"] == nil || got["duration"] == nil {
			t.Errorf("%s: %v", message, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	noKey := func(s *setup) {
		s.session.ModelAPIs = func() ([]agent.ModelAPI, error) {
			return nil, &session.Error{Code: session.CodeNoCredentials, Message: "set ANTHROPIC_API_KEY"}
		}
	}
	if a := newWorld(t, noKey).post("s", "echo"); a.status != http.StatusServiceUnavailable || a.object(t)["code"] != "no_credentials" {
		t.Errorf("no credentials: %d %s", a.status, a.body)
	}

	w := newWorld(t, func(s *setup) { s.session.QueueDepth = 1 })
	held := w.held("s")
	waits := w.background("s", "echo next")
	w.queued("s", 1)
	a := w.post("s2", "echo")
	if a.status != http.StatusTooManyRequests || a.object(t)["code"] != "queue_full" || a.header.Get("Retry-After") != "5" {
		t.Errorf("full queue: %d %v %s", a.status, a.header, a.body)
	}
	w.letGo("s")
	<-held
	<-waits
	if a := w.post("s", "echo", "agent", "other"); a.status != http.StatusConflict || a.object(t)["code"] != "agent_fixed" {
		t.Errorf("another agent: %d %s", a.status, a.body)
	}
	if a := w.post("s", "echo", "agent", "shel"); a.status != http.StatusConflict {
		t.Errorf("unknown agent for a session that has one: %d %s", a.status, a.body)
	}
	if a := w.post("new", "echo", "agent", "shel"); a.status != http.StatusNotFound || a.object(t)["field"] != "agent" {
		t.Errorf("unknown agent: %d %s", a.status, a.body)
	}
	if a := w.post("new", "echo", "backend", "moon"); a.status != http.StatusNotFound || a.object(t)["field"] != "backend" {
		t.Errorf("unknown backend: %d %s", a.status, a.body)
	}
}

// TestClientHangsUp holds that a task goes on without its client.
func TestClientHangsUp(t *testing.T) {
	w := newWorld(t)
	ctx, hangUp := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := w.try(ctx, http.MethodPost, "/task", task("s", hold))
		left <- err
	}()
	eventually(t, "the task runs", func() bool {
		_, err := os.Stat(w.path("s", "started"))
		return err == nil
	})
	hangUp()
	if err := <-left; err == nil {
		t.Fatal("the request was answered")
	}
	id := w.get("/session/s")["currentTask"].(string)
	w.letGo("s")
	eventually(t, "the task has succeeded", func() bool { return w.get("/task/" + id)["status"] == "succeeded" })
}

func TestAgentsAndBackends(t *testing.T) {
	w := newWorld(t, func(s *setup) {
		s.profile.Description = "A shell."
		s.profile.Env = map[string]string{"A": "hidden-env"}
		s.profile.Secrets = map[string]agent.Secret{"B": "hidden-secret"}
	})
	a := w.do(http.MethodGet, "/agents", "")
	var agents []map[string]any
	if err := json.Unmarshal([]byte(a.body), &agents); err != nil || len(agents) != 2 || strings.Contains(a.body, "hidden") {
		t.Fatalf("%s, %v", a.body, err)
	}
	want := map[string]any{
		"name": "other", "description": "A shell.", "default": false, "model": "claude-sonnet-4-6", "backends": []any{"local"},
		"image": "claude-runner-agent", "tools": []any{"Bash", "Read", "Edit", "Write"}, "permissionMode": "bypassPermissions", "network": "allowlist",
		"maxTurns": 10., "timeout": 600000., "limits": map[string]any{},
	}
	if diff := cmp.Diff(want, agents[0]); diff != "" {
		t.Errorf("GET /agents (-want +got):\n%s", diff)
	}
	if agents[1]["name"] != "shell" || agents[1]["default"] != true {
		t.Errorf("the default agent: %v", agents[1])
	}
	var list []map[string]any
	if err := json.Unmarshal([]byte(w.do(http.MethodGet, "/backends", "").body), &list); err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if b := list[0]; b["name"] != "local" || b["healthy"] != true || b["isolation"] != "none" || b["warning"] == nil || b["capabilities"] == nil {
		t.Errorf("GET /backends: %v", b)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	held := w.held("s")
	want := map[string]any{"status": "ok", "version": "v1.2.3", "activeTasks": 1., "queuedTasks": 0.}
	if diff := cmp.Diff(want, without(t, w.get("/health"), "uptime")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	w.letGo("s")
	<-held
	if a := w.do(http.MethodHead, "/health", ""); a.status != http.StatusOK || a.body != "" {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
}

// TestSessionsPages holds that the pages of GET /sessions are, together, all of
// it, and that without a limit it is an array of all, as it always was.
func TestSessionsPages(t *testing.T) {
	w := newWorld(t)
	for i := range 7 {
		w.post(fmt.Sprintf("s%d", i), "echo")
	}
	ids := func(a answer) (out []string) {
		var views []struct{ SessionID string }
		if err := json.Unmarshal([]byte(a.body), &views); err != nil {
			t.Fatal(err)
		}
		for _, v := range views {
			out = append(out, v.SessionID)
		}
		return out
	}
	all := w.do(http.MethodGet, "/sessions", "")
	var paged []string
	pages := 0
	for path := "/sessions?limit=3"; path != ""; pages++ {
		a := w.do(http.MethodGet, path, "")
		paged = append(paged, ids(a)...)
		link, _ := strings.CutPrefix(a.header.Get("Link"), "<")
		path, _, _ = strings.Cut(link, ">")
	}
	want := "[s6 s5 s4 s3 s2 s1 s0]"
	if got := fmt.Sprint(ids(all)); got != want || all.header.Get("Link") != "" {
		t.Errorf("all: %s, Link %q", got, all.header.Get("Link"))
	}
	if fmt.Sprint(paged) != want || pages != 3 {
		t.Errorf("in %d pages: %v", pages, paged)
	}
	for _, query := range []string{"limit=0", "limit=501", "limit=x", "cursor=x", "page=2"} {
		if a := w.do(http.MethodGet, "/sessions?"+query, ""); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
}
