package api_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"
)

// TestWarmSession boots agents ahead of messages, and tries what can't be.
func TestWarmSession(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.profile.IdleTimeout = time.Hour })
	a := w.do(http.MethodPost, "/session/s/warm", "")
	if got := a.object(t); a.status != http.StatusOK || got["state"] != "ready" || got["backend"] != "local" || got["sessionId"] != "s" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := w.do(http.MethodGet, "/session/s", ""); a.status != http.StatusNotFound {
		t.Errorf("the session is there before its first task: %s", a.body)
	}
	a = w.do(http.MethodPost, "/session/later/warm", `{"agent": null, "async": true}`)
	if state := a.object(t)["state"]; a.status != http.StatusAccepted || state != "booting" {
		t.Errorf("%d %s", a.status, a.body)
	}
	held := w.held("busy")
	if a := w.do(http.MethodPost, "/session/busy/warm", "{}"); a.status != http.StatusOK || a.object(t)["state"] != "working" {
		t.Errorf("%d %s", a.status, a.body)
	}
	w.letGo("busy")
	<-held
	for body, field := range map[string]any{
		`{"agent": 1}`: "agent", `{"async": "x"}`: "async", `{"agnet": "x"}`: "agnet", `[]`: nil, `{`: nil,
		`{"agent": "nobody"}`: "agent",
	} {
		if a := w.do(http.MethodPost, "/session/x/warm", body); a.status/100 != 4 || a.object(t)["field"] != field {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	if a := w.do(http.MethodPost, "/session/..%2fx/warm", ""); a.status != http.StatusBadRequest {
		t.Errorf("a bad id: %d %s", a.status, a.body)
	}
}

// TestWarmBackends holds that GET /backends says how pools stand, and why one is
// empty.
func TestWarmBackends(t *testing.T) {
	pool := func(w *world, backend string) map[string]any {
		var all []struct {
			Name string
			Warm []map[string]any
		}
		if err := json.Unmarshal([]byte(w.do(http.MethodGet, "/backends", "").body), &all); err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			if b.Name == backend && len(b.Warm) > 0 {
				return b.Warm[0]
			}
		}
		return nil
	}
	w := newWorld(t, func(s *setup) { s.profile.KeepWarm = 1 })
	eventually(t, "an agent is warm", func() bool { return pool(w, "local")["ready"] == 1.0 })

	w = newWorld(t, func(s *setup) { s.profile.KeepWarm, s.profile.Hardening.Seccomp = 1, "no/such/filter" })
	eventually(t, "the reason is told", func() bool {
		p := pool(w, "local")
		return p["ready"] == 0.0 && p["error"] != nil && p["retryAt"] != nil
	})
}
