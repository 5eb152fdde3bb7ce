package api_test

import (
	"net/http"
	"testing"
)

// TestSessionBudget sets what a session may cost, over and over, and tries what
// is no budget.
func TestSessionBudget(t *testing.T) {
	w := newWorld(t)
	w.post("s", "echo hello")
	for _, c := range []struct {
		body string
		want any
	}{
		{`{"budgetUsd": 2.5}`, 2.5}, {`{"budgetUsd": 0}`, 0.0}, {`{"budgetUsd": null}`, nil},
	} {
		if a := w.do(http.MethodPatch, "/session/s", c.body); a.status != http.StatusOK || a.object(t)["budgetUsd"] != c.want {
			t.Errorf("%s: %d %s", c.body, a.status, a.body)
		}
		if got := w.do(http.MethodGet, "/session/s", "").object(t)["budgetUsd"]; got != c.want {
			t.Errorf("%s: the session has %v", c.body, got)
		}
	}
	for body, field := range map[string]any{
		`{"budgetUsd": -1}`: "budgetUsd", `{"budgetUsd": "5"}`: "budgetUsd", `{"budgetUsd": 1e999}`: "budgetUsd",
		`{"budget": 1}`: "budget", `{}`: nil, `[]`: nil, ``: nil,
	} {
		if a := w.do(http.MethodPatch, "/session/s", body); a.status != http.StatusBadRequest || a.object(t)["field"] != field {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	if a := w.do(http.MethodPatch, "/session/other", `{"budgetUsd": 1}`); a.status != http.StatusNotFound {
		t.Errorf("unknown session: %d %s", a.status, a.body)
	}
}
