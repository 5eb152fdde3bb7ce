package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"claude-runner/agent"
	"claude-runner/session"
)

// makeKey makes an API key and returns it with its secret.
func (w *world) makeKey(name string, change func(*session.APIKey)) (session.APIKey, string) {
	w.t.Helper()
	k := session.APIKey{Name: name, Scopes: []session.Scope{session.ScopeSubmit, session.ScopeRead}, CreatedAt: time.Now().UTC()}
	if change != nil {
		change(&k)
	}
	k, secret, err := session.NewAPIKey(k)
	if err == nil {
		err = w.store.CreateAPIKey(w.t.Context(), k, session.AuditEntry{At: k.CreatedAt, Action: "keys.create", Target: k.ID, Status: 200})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return k, secret
}

// as returns the same world as seen with another key.
func (w *world) as(secret string) *world {
	other := w.with(w.t)
	other.key, other.store, other.manager, other.server = secret, w.store, w.manager, w.server
	return other
}

// admin makes a key of the scope admin, so that one is asked for, and waits until it is.
func (w *world) admin() *world {
	w.t.Helper()
	_, secret := w.makeKey("boss", func(k *session.APIKey) { k.Scopes = []session.Scope{session.ScopeAdmin} })
	eventually(w.t, "a key is asked for", func() bool {
		return w.do(http.MethodGet, "/sessions", "", "Authorization", "").status == http.StatusUnauthorized
	})
	return w.as(secret)
}

// TestTwoKeysOverEveryRoute holds that what is one key's is not there for
// another, whatever it asks.
func TestTwoKeysOverEveryRoute(t *testing.T) {
	w := newWorld(t)
	boss := w.admin()
	_, secretA := w.makeKey("alice", nil)
	_, secretB := w.makeKey("bob", nil)
	alice, bob := w.as(secretA), w.as(secretB)
	if a := alice.post("alices-session", "echo alices-words"); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	taskID := alice.get("/tasks")["tasks"].([]any)[0].(map[string]any)["taskId"].(string)
	running := alice.held("alices-other")

	// What another key gets: a status, and its code.
	want := map[string]string{
		"POST /task":                            "403 session_forbidden",
		"GET /tasks":                            "200",
		"GET /task/:taskId":                     "404 task_not_found",
		"DELETE /task/:taskId":                  "404 task_not_found",
		"POST /task/:sessionId/abort":           "404 session_not_found",
		"GET /sessions":                         "200",
		"GET /session/:sessionId":               "404 session_not_found",
		"PATCH /session/:sessionId":             "403 forbidden",
		"DELETE /session/:sessionId":            "404 session_not_found",
		"POST /session/:sessionId/reset":        "404 session_not_found",
		"POST /session/:sessionId/warm":         "404 session_not_found",
		"GET /session/:sessionId/events":        "404 session_not_found",
		"POST /session/:sessionId/stream-token": "404 session_not_found",
		"GET /stream/:sessionId":                "404 session_not_found",
		"GET /usage":                            "200",
		"GET /agents":                           "200",
		"GET /backends":                         "403 forbidden",
		"GET /audit":                            "403 forbidden",
		"GET /metrics":                          "403 forbidden",
	}
	for route, scope := range w.server.Scopes() {
		method, path, _ := strings.Cut(route, " ")
		if scope == "anyone" {
			path := w.url + path
			if a := bob.do(method, strings.TrimPrefix(path, w.url), ""); strings.Contains(a.body, "alices-") {
				t.Errorf("%s tells of another key's: %s", route, a.body)
			}
			continue
		}
		if want[route] == "" {
			t.Errorf("%s: this test does not know what another key gets", route)
		}
		for _, id := range []string{"alices-session", "alices-other"} {
			body := ""
			if route == "POST /task" {
				body = task(id, "echo")
			}
			asked := strings.NewReplacer(":sessionId", id, ":taskId", taskID).Replace(path)
			if route == "GET /usage" {
				asked += "?group_by=session"
			}
			a := bob.do(method, asked, body, "Accept", "text/event-stream")
			got := fmt.Sprint(a.status)
			if a.status >= 400 {
				got += " " + a.object(t)["code"].(string)
			}
			if got != want[route] {
				t.Errorf("%s of another key's: %s, want %s: %s", route, got, want[route], a.body)
			}
			if a.status == http.StatusOK && (strings.Contains(a.body, "alices-") || strings.Contains(a.body, taskID)) {
				t.Errorf("%s tells of another key's: %s", route, a.body)
			}
		}
		if a := w.do(method, strings.NewReplacer(":sessionId", "alices-session", ":taskId", taskID).Replace(path), "", "Authorization", ""); a.status != http.StatusUnauthorized {
			t.Errorf("%s without a key: %d %s", route, a.status, a.body)
		}
	}
	if a := bob.do(http.MethodGet, "/tasks?sessionId=alices-session", ""); strings.Contains(a.body, "alices-session") {
		t.Errorf("a filter finds another key's tasks: %s", a.body)
	}

	// Nothing came of it, and the owner and the admin see all.
	for name, see := range map[string]*world{"its owner": alice, "the admin": boss} {
		if got := see.do(http.MethodGet, "/sessions", ""); strings.Count(got.body, `"sessionId"`) != 2 {
			t.Errorf("%s sees %s", name, got.body)
		}
		if got := see.get("/task/" + taskID); got["text"] != "alices-words" {
			t.Errorf("%s: the task is %v", name, got)
		}
		if got := see.get("/session/alices-other"); got["busy"] != true {
			t.Errorf("%s: the other session is %v", name, got)
		}
		if got := see.do(http.MethodGet, "/usage?group_by=session", ""); !strings.Contains(got.body, "alices-session") {
			t.Errorf("%s: usage is %s", name, got.body)
		}
	}
	alice.letGo("alices-other")
	if a := <-running; a.status != http.StatusOK {
		t.Errorf("the task that ran: %d %s", a.status, a.body)
	}
}

// TestScopes holds that each route takes its scope and no other.
func TestScopes(t *testing.T) {
	w := newWorld(t)
	w.admin()
	for _, scope := range session.Scopes {
		_, secret := w.makeKey("only-"+string(scope), func(k *session.APIKey) { k.Scopes = []session.Scope{scope} })
		see := w.as(secret)
		for route, takes := range w.server.Scopes() {
			method, path, _ := strings.Cut(route, " ")
			path = strings.NewReplacer(":sessionId", "nobodys", ":taskId", "none").Replace(path)
			a := see.do(method, path, "")
			refused := a.status == http.StatusForbidden && a.object(t)["code"] == "forbidden"
			if may := takes == "anyone" || takes == string(scope) || scope == session.ScopeAdmin; refused == may {
				t.Errorf("%s with %s: %d %s", route, scope, a.status, a.body)
			}
			if refused && !strings.Contains(a.body, "the scope "+takes) {
				t.Errorf("%s does not name its scope: %s", route, a.body)
			}
		}
		if a := see.do(http.MethodPut, "/task", "{}"); a.status != http.StatusMethodNotAllowed {
			t.Errorf("a method that is not: %d %s", a.status, a.body)
		}
	}
	for _, r := range w.server.Routes() {
		r = strings.Replace(r, http.MethodHead+" ", "GET ", 1)
		if _, ok := w.server.Scopes()[r]; !ok {
			t.Errorf("%s is not in the table of scopes", r)
		}
	}
}

// TestKeyLife holds that a key is of use from when it is made until it is
// revoked or over, in a server that runs.
func TestKeyLife(t *testing.T) {
	w := newWorld(t)
	if a := w.do(http.MethodGet, "/sessions", ""); a.status != http.StatusOK {
		t.Fatalf("without keys: %d %s", a.status, a.body)
	}
	k, secret := w.makeKey("short", func(k *session.APIKey) { k.ExpiresAt = time.Now().Add(time.Hour) })
	see := w.as(secret)
	eventually(t, "the key is asked for", func() bool { return w.do(http.MethodGet, "/sessions", "").status == http.StatusUnauthorized })
	if a := see.do(http.MethodGet, "/sessions", ""); a.status != http.StatusOK {
		t.Errorf("with it: %d %s", a.status, a.body)
	}
	for name, bad := range map[string]string{
		"another secret": secret[:len(secret)-1] + "_", "a longer one": secret + "x", "its id": k.ID,
		"another id": "crk_aaaaaaaaaaaa_" + secret[len(secret)-43:],
	} {
		if a := w.as(bad).do(http.MethodGet, "/sessions", ""); a.status != http.StatusUnauthorized || a.object(t)["code"] != "unauthorized" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	_, second := w.makeKey("second", nil)
	if a := w.as(second).do(http.MethodGet, "/sessions", ""); a.status != http.StatusOK {
		t.Errorf("a key that was made just now: %d %s", a.status, a.body)
	}
	if _, err := w.store.RevokeAPIKey(t.Context(), "short", time.Now(), session.AuditEntry{Action: "keys.revoke"}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	eventually(t, "it is revoked", func() bool { return see.do(http.MethodGet, "/sessions", "").status == http.StatusUnauthorized })
	if took := time.Since(begun); took > 10*time.Second { // a second, on a machine that has time
		t.Errorf("it took %v", took)
	}
	if a := see.do(http.MethodGet, "/sessions", ""); !strings.Contains(a.body, "was revoked") {
		t.Errorf("a revoked key is told: %s", a.body)
	}
	_, over := w.makeKey("over", func(k *session.APIKey) { k.ExpiresAt = time.Now().Add(-time.Second) })
	if a := w.as(over).do(http.MethodGet, "/sessions", ""); a.status != http.StatusUnauthorized || !strings.Contains(a.body, "expired at") {
		t.Errorf("an expired key: %d %s", a.status, a.body)
	}
	if logged := w.logs.String(); strings.Contains(logged, secret) || strings.Contains(logged, secret[len(secret)-43:]) {
		t.Error("the log has the secret")
	}
}

// TestConfigKeysSeeAll holds that the configuration's keys have every scope and
// see what is others', beside keys that were made.
func TestConfigKeysSeeAll(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.api.APIKeys = []agent.Secret{"the-configs-key"} })
	_, secret := w.makeKey("made", nil)
	made := w.as(secret)
	if a := made.post("mine", "echo"); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := w.post("theirs", "echo"); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := w.do(http.MethodGet, "/sessions", ""); !strings.Contains(a.body, `"mine"`) || !strings.Contains(a.body, `"theirs"`) {
		t.Errorf("the configuration's key sees %s", a.body)
	}
	if a := made.do(http.MethodGet, "/sessions", ""); !strings.Contains(a.body, `"mine"`) || strings.Contains(a.body, `"theirs"`) {
		t.Errorf("the key that was made sees %s", a.body)
	}
	if a := made.post("theirs", "echo"); a.status != http.StatusForbidden {
		t.Errorf("a submit to the runner's owner's session: %d %s", a.status, a.body)
	}
	if a := w.post("mine", "echo"); a.status != http.StatusOK {
		t.Errorf("the owner's submit to a key's session: %d %s", a.status, a.body)
	}
	if got := made.get("/tasks")["tasks"].([]any); len(got) != 2 {
		t.Errorf("the key sees %d tasks of its session, want 2", len(got))
	}
	for _, path := range []string{"/backends", "/metrics", "/audit"} {
		if a := w.do(http.MethodGet, path, ""); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// TestHostsWithKeys holds that a name for this host is trusted once a key is
// asked for, be it one that was made.
func TestHostsWithKeys(t *testing.T) {
	w := newWorld(t)
	page := []string{"Host", "runner.example.com", "Origin", "https://runner.example.com"}
	if a := w.do(http.MethodGet, "/sessions", "", page...); a.status != http.StatusForbidden || a.object(t)["code"] != "host_not_allowed" {
		t.Errorf("without keys: %d %s", a.status, a.body)
	}
	boss := w.admin()
	if a := boss.do(http.MethodGet, "/sessions", "", page...); a.status != http.StatusOK {
		t.Errorf("with a key: %d %s", a.status, a.body)
	}
	if a := boss.do(http.MethodGet, "/sessions", "", "Origin", "https://evil.example"); a.status != http.StatusForbidden || a.object(t)["code"] != "origin_not_allowed" {
		t.Errorf("a foreign page: %d %s", a.status, a.body)
	}
}

func TestAgentsOfAKey(t *testing.T) {
	w := newWorld(t)
	w.admin()
	_, secret := w.makeKey("other-only", func(k *session.APIKey) { k.Agents = []string{"other"} })
	see := w.as(secret)
	var agents []struct{ Name string }
	if a := see.do(http.MethodGet, "/agents", ""); json.Unmarshal([]byte(a.body), &agents) != nil || len(agents) != 1 || agents[0].Name != "other" {
		t.Errorf("agents: %s", a.body)
	}
	for _, agent := range []string{"", "shell", "nobody"} {
		a := see.do(http.MethodPost, "/task", task("s", "echo", "agent", agent))
		if agent == "" {
			a = see.post("s", "echo")
		}
		if got := a.object(t); a.status != http.StatusNotFound || got["code"] != "agent_not_found" || !strings.Contains(a.body, "it may use other") {
			t.Errorf("agent %q: %d %s", agent, a.status, a.body)
		}
	}
	if a := see.post("s", "echo", "agent", "other"); a.status != http.StatusOK {
		t.Errorf("its own: %d %s", a.status, a.body)
	}
}

// TestLimitsOfAKey holds its rate and its budget of the day.
func TestLimitsOfAKey(t *testing.T) {
	w := newWorld(t)
	boss := w.admin()
	_, secret := w.makeKey("slow", func(k *session.APIKey) { k.Rate = 2 })
	_, other := w.makeKey("free", nil)
	slow := w.as(secret)
	for range 2 {
		if a := slow.post("slow", "echo"); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	a := slow.post("slow", "echo")
	if a.status != http.StatusTooManyRequests || a.object(t)["code"] != "rate_limited" || a.header.Get("Retry-After") == "" || a.header.Get("Retry-After") == "0" {
		t.Errorf("the third: %d %v %s", a.status, a.header, a.body)
	}
	if a := w.as(other).post("free", "echo"); a.status != http.StatusOK {
		t.Errorf("another key's: %d %s", a.status, a.body)
	}

	_, secret = w.makeKey("poor", func(k *session.APIKey) { k.BudgetUSD = 0.001 })
	poor := w.as(secret)
	if a := poor.post("poor", "echo"); a.status != http.StatusOK || a.object(t)["cost"].(float64) < 0.001 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	a = poor.post("poor", "echo")
	if a.status != http.StatusPaymentRequired || a.object(t)["code"] != "budget_exceeded" || !strings.Contains(a.body, "renews at") || !strings.Contains(a.body, "$") {
		t.Errorf("over its budget: %d %s", a.status, a.body)
	}
	if a := poor.do(http.MethodDelete, "/session/poor", ""); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := poor.post("poor", "echo"); a.status != http.StatusPaymentRequired {
		t.Errorf("over its budget, the session deleted: %d %s", a.status, a.body)
	}
	if a := boss.post("boss", "echo"); a.status != http.StatusOK {
		t.Errorf("another key's: %d %s", a.status, a.body)
	}
}

// TestIdempotencyKeysAreTheCallers holds that two callers may use the same
// idempotency key.
func TestIdempotencyKeysAreTheCallers(t *testing.T) {
	w := newWorld(t)
	w.admin()
	ids := map[string]bool{}
	for _, name := range []string{"one", "two"} {
		_, secret := w.makeKey(name, nil)
		see := w.as(secret)
		for range 2 {
			a := see.do(http.MethodPost, "/task", task("of-"+name, "echo"), "Idempotency-Key", "the-same")
			if a.status != http.StatusOK {
				t.Fatalf("%s: %d %s", name, a.status, a.body)
			}
			ids[a.object(t)["taskId"].(string)] = true
		}
	}
	if len(ids) != 2 {
		t.Errorf("%d tasks, want one of each key", len(ids))
	}
}

func BenchmarkIdentify(b *testing.B) {
	w := newWorld(b)
	var secret string
	for i := range 1000 {
		_, secret = w.makeKey(fmt.Sprint("key-", i), nil)
	}
	for b.Loop() {
		if err := w.server.Identify("Bearer " + secret); err != nil {
			b.Fatal(err)
		}
	}
}
