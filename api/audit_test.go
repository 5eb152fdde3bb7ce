package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"claude-runner/session"
)

// entry is what the tests look at of an entry of the audit.
type entry struct {
	action, keyName, session, agent, code string
	status                                int
}

// trail reads the whole audit, in small pages.
func (w *world) trail(query string) []entry {
	w.t.Helper()
	var out []entry
	for after := "0"; ; {
		page := w.get("/audit?limit=3&after=" + after + query)
		for _, one := range page["entries"].([]any) {
			e := one.(map[string]any)
			text := func(name string) string { s, _ := e[name].(string); return s }
			if text("action") != "keys.create" && (text("requestId") == "" || text("remote") != "127.0.0.1") {
				w.t.Errorf("an entry without its origin: %v", e)
			}
			if text("action") != "read.audit" {
				out = append(out, entry{text("action"), text("keyName"), text("sessionId"), text("agent"), text("code"), int(e["status"].(float64))})
			}
		}
		if after = fmt.Sprintf("%.0f", page["next"]); page["more"] != true {
			return out
		}
	}
}

// TestAudit holds that all that callers do is written down, in its order, and
// nothing of what they said.
func TestAudit(t *testing.T) {
	w := newWorld(t)
	_, secret := w.makeKey("boss", func(k *session.APIKey) { k.Scopes = []session.Scope{session.ScopeAdmin} })
	boss := w.as(secret)
	k, secret := w.makeKey("web", func(k *session.APIKey) { k.Scopes = []session.Scope{session.ScopeSubmit} })
	web := w.as(secret)

	first := web.post("s", "echo the-message").object(t)["taskId"].(string)
	web.post("s", "echo x", "agent", "nobody")
	web.do(http.MethodGet, "/session/s", "")
	web.do(http.MethodPost, "/task", "{", "Content-Type", "application/json")
	idempotent := []string{"Idempotency-Key", "again"}
	web.do(http.MethodPost, "/task", task("s", "echo x"), idempotent...)
	web.do(http.MethodPost, "/task", task("s", "echo x"), idempotent...)
	boss.get("/session/s")
	boss.get("/task/" + first)
	boss.get("/session/s/events")
	boss.do(http.MethodGet, "/usage", "")
	web.do(http.MethodDelete, "/task/"+first, "")
	web.do(http.MethodPost, "/task/s/abort", "")
	web.do(http.MethodPost, "/session/s/reset", "")
	boss.token("s")
	c, _ := boss.open("/stream/s")
	web.do(http.MethodDelete, "/session/s", "")
	if _, err := c.read(); err == nil {
		t.Error("the deleted session's stream goes on")
	}
	boss.do(http.MethodGet, "/health", "")
	w.do(http.MethodGet, "/sessions", "", "Authorization", "Bearer nonsense") // unknown callers do not fill the disk

	want := []entry{
		{"keys.create", "", "", "", "", 200}, {"keys.create", "", "", "", "", 200},
		{"submit", "web", "s", "shell", "", 202}, {"submit", "web", "s", "nobody", "agent_fixed", 409},
		{"read.session", "web", "s", "", "forbidden", 403}, {"submit", "web", "", "", "invalid_request", 400},
		{"submit", "web", "s", "shell", "", 202}, {"submit", "web", "s", "shell", "", 200},
		{"read.session", "boss", "s", "", "", 200}, {"read.task", "boss", "s", "shell", "", 200},
		{"read.events", "boss", "s", "", "", 200}, {"read.usage", "boss", "", "", "", 200},
		{"cancel", "web", "s", "shell", "task_ended", 409}, {"abort", "web", "s", "", "", 200},
		{"reset", "web", "s", "", "", 200}, {"stream_token", "boss", "s", "", "", 200},
		{"read.stream", "boss", "s", "", "", 101}, {"delete", "web", "s", "", "", 200},
	}
	var got []entry
	eventually(t, "reads are written too", func() bool {
		got = boss.trail("")
		return len(got) >= len(want)
	})
	for i, e := range want {
		if i < len(got) && got[i] != e {
			t.Errorf("entry %d is %+v, want %+v", i, got[i], e)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d: %+v", len(got), len(want), got)
	}
	for query, n := range map[string]int{"&key=web": 10, "&key=" + k.ID: 10, "&session=s": 14, "&session=none": 0, "&key=nobody": 0} {
		if got := boss.trail(query); len(got) != n {
			t.Errorf("%s: %d entries, want %d: %+v", query, len(got), n, got)
		}
	}
	if a := boss.do(http.MethodGet, "/audit?limit=1000", ""); strings.Contains(a.body, "the-message") || strings.Contains(a.body, secret) {
		t.Errorf("the audit tells what was said: %s", a.body)
	}
	for _, query := range []string{"limit=0", "limit=1001", "after=-1", "session=../x", "nonsense=1"} {
		if a := boss.do(http.MethodGet, "/audit?"+query, ""); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
}

// noAudit is a store whose audit's disk is full.
type noAudit struct {
	session.Store
	full atomic.Bool
}

func (s *noAudit) Apply(ctx context.Context, changes []session.Change) error {
	for _, c := range changes {
		if c.Audit != nil && s.full.Load() {
			return errors.New("the disk is full")
		}
	}
	return s.Store.Apply(ctx, changes)
}

// TestAuditIsAcknowledged holds that what changes something is not acknowledged
// where it can't be written down.
func TestAuditIsAcknowledged(t *testing.T) {
	store := &noAudit{}
	w := newWorld(t, func(s *setup) {
		store.Store = s.session.Store
		s.session.Store = store
	})
	w.post("s", "echo")
	store.full.Store(true)
	for _, request := range []string{"POST /session/s/reset", "POST /task/s/abort", "POST /task", "DELETE /session/s"} {
		method, path, _ := strings.Cut(request, " ")
		a := w.do(method, path, task("s", "echo x"))
		if a.status != http.StatusInternalServerError || a.object(t)["code"] != "storage_failed" {
			t.Errorf("%s: %d %s", request, a.status, a.body)
		}
	}
	if a := w.do(http.MethodGet, "/livez", ""); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	for range 3 { // a read is answered
		if a := w.do(http.MethodGet, "/sessions", ""); a.status != http.StatusOK {
			t.Errorf("a read: %d %s", a.status, a.body)
		}
	}
	store.full.Store(false)
	if a := w.post("s", "echo"); a.status != http.StatusOK {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}
