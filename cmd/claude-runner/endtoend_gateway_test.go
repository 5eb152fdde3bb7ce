package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"claude-runner/backends"
)

// testBudgets spends a task's budget and then a session's, and holds that no
// call follows the one that goes over it, that what it cost is told, and that
// the session goes on when it may.
func testBudgets(t *testing.T, d *deployment) {
	c := d.chat(t, "thrifty")
	r := c.fail("loop", http.StatusPaymentRequired, "budget_exceeded")
	calls, dollars := d.asked(c.id), r.Cost
	if r.Status != "budget_exceeded" || !strings.Contains(r.Error, "max_budget_usd") || calls < 2 || calls > 3 {
		t.Errorf("after %d calls: %s", calls, r.body)
	}
	// Each call asks for about 0.01 dollars, of which the task may have 0.02.
	if r.Cost < 0.02 || r.Cost > 0.04 {
		t.Errorf("the task cost %v dollars: %s", r.Cost, r.body)
	}
	if cost := c.details().Cost; math.Abs(cost-dollars) > 1e-9 {
		t.Errorf("the session cost %v dollars, its task %v", cost, dollars)
	}

	for range 5 { // until the session's own is spent too
		if r = c.send("spend"); r.status != http.StatusOK {
			break
		}
	}
	r.want(t, http.StatusPaymentRequired, "budget_exceeded")
	if before := d.asked(c.id); !strings.Contains(r.Error, "session") || c.send("spend").status != http.StatusPaymentRequired || d.asked(c.id) != before {
		t.Errorf("a call was made without a budget: %s", r.body)
	}
	change, err := d.do(context.Background(), http.MethodPatch, "/session/"+c.id, `{"budgetUsd": 1}`)
	if err != nil || change.status != http.StatusOK {
		t.Fatalf("PATCH: %d %s %v", change.status, change.body, err)
	}
	c.ask("spend")
}

// asked is how many model calls a session's conversation has made.
func (d *deployment) asked(session string) int {
	var id string
	for _, e := range d.events(session) {
		if e.AgentSessionID != "" {
			id = e.AgentSessionID
		}
	}
	n := 0
	for _, r := range d.model.Requests() {
		if r.Conversation == id {
			n++
		}
	}
	return n
}

// events are all of a session's so far.
func (d *deployment) events(session string) []event {
	var page struct{ Events []event }
	d.get(d.t, "/session/"+session+"/events?limit=10000", &page)
	return page.Events
}

// testEgress has tools call what their profile allows and what it does not.
func testEgress(t *testing.T, d *deployment) {
	c := d.chat(t, "caller")
	url := fmt.Sprintf("http://%s:%s", backends.HostAlias, d.sitePort)
	if got := c.ask("run: curl -sS " + url + "/hello").Text; !strings.Contains(got, "GET /hello with Bearer [secret]") {
		t.Errorf("an allowed call: %q", got)
	}
	if got := c.ask("run: env | rev").Text; strings.Contains(got, reversed(acmeToken)) {
		t.Errorf("the token is in the sandbox: %q", got)
	}
	if d.capabilities.Isolation == backends.IsolationNone {
		return // it has this host's network, as its warnings say
	}
	s := c.stream("")
	if got := c.ask("run: curl -sS -X POST " + url + "/").Text; !strings.Contains(got, "does not allow POST") {
		t.Errorf("a method that is not allowed: %q", got)
	}
	var told struct {
		Refusal struct{ Method, Target, Rule string }
	}
	if err := json.Unmarshal([]byte(s.until("egress_refused").raw), &told); err != nil || told.Refusal.Method != http.MethodPost || !strings.Contains(told.Refusal.Rule, "methods: [GET, POST]") {
		t.Errorf("the refusal: %+v, %v", told, err)
	}
	if got := c.ask("run: curl -sS https://example.com/ || true").Text; !strings.Contains(got, "403") {
		t.Errorf("a host that is not allowed: %q", got)
	}
	closed := d.chat(t, "closed")
	if got := closed.ask("run: curl -sS -m 5 " + url + "/ && echo reached; cat /proc/net/route | wc -l").Text; strings.Contains(got, "reached") {
		t.Errorf("network: none reaches %q", got)
	}
	const store = `run: echo "[$CLAUDE_CODE_CERT_STORE]"`
	if open, shut := c.ask(store).Text, closed.ask(store).Text; open != "[]" || shut != "[bundled]" {
		t.Errorf("the CLI has certificates of %s where it may call others, of %s where it may not", open, shut)
	}
}

// startSite is a service of this host that says what it was asked, and with
// which credentials.
func startSite(t *testing.T) *httptest.Server {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		fmt.Fprintf(w, "%s %s with %s\n", r.Method, r.URL.Path, r.Header.Get("Authorization"))
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	t.Cleanup(site.Close)
	return site
}
