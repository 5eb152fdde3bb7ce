package session_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"claude-runner/agent"
	"claude-runner/session"
)

// key makes an API key and returns who calls with it.
func (w *world) key(name string, change func(*session.APIKey)) session.Caller {
	w.t.Helper()
	k := session.APIKey{Name: name, Scopes: []session.Scope{session.ScopeSubmit, session.ScopeRead}, CreatedAt: time.Now()}
	if change != nil {
		change(&k)
	}
	k, secret, err := session.NewAPIKey(k)
	if err == nil {
		err = w.opts.Store.CreateAPIKey(context.Background(), k, session.AuditEntry{Action: "keys.create"})
	}
	if err == nil {
		k, err = w.Keys().Find(context.Background(), secret)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return k.Caller()
}

// submitAs queues a message for a caller.
func (w *world) submitAs(c session.Caller, sessionID, message string) session.Task {
	w.t.Helper()
	task, err := w.View(c).Submit(w.t.Context(), session.Submission{SessionID: sessionID, Request: session.Request{Message: message}})
	if err != nil {
		w.t.Fatal(err)
	}
	return task
}

// TestConcurrencyOfAKey holds that what a key has too much of waits, and holds
// up nobody else, after a restart too.
func TestConcurrencyOfAKey(t *testing.T) {
	dir := sharedDir(t)
	w := openWorld(t, dir, nil)
	a, b := w.key("a", func(k *session.APIKey) { k.Concurrency = 1 }), w.key("b", nil)
	first := w.submitAs(a, "a1", hold)
	w.started("a1")
	waits := w.submitAs(a, "a2", "echo")
	w.wait(w.submitAs(b, "b", "echo"))
	w.wait(w.submit("owner", "echo"))
	if got, err := w.Task(t.Context(), waits.ID); err != nil || got.State != session.TaskQueued || got.Owner != a.KeyID {
		t.Errorf("the second task is %s of %q, %v", got.State, got.Owner, err)
	}
	w.letGo("a1")
	w.wait(first)
	w.wait(waits)

	w.submitAs(a, "a3", hold)
	w.started("a3")
	waits = w.submitAs(a, "a4", "echo")
	w.close()
	w = openWorld(t, dir, nil)
	w.wait(w.submitAs(b, "b", "echo"))
	for id := range map[string]bool{"a3": true, "a4": true} {
		if s, err := w.Session(t.Context(), id); err != nil || s.Owner != a.KeyID {
			t.Errorf("after a restart: %+v, %v", s, err)
		}
	}
	w.letGo("a3")
	w.wait(waits)
}

// TestFairness holds that a key's long queue does not hold up another's task.
func TestFairness(t *testing.T) {
	w := newWorld(t, func(o *session.Options, _ *agent.Profile) { o.Concurrency = 2 })
	a, b := w.key("a", nil), w.key("b", nil)
	running := []session.Task{w.submitAs(a, "a0", hold), w.submitAs(a, "a1", hold)}
	w.started("a0")
	w.started("a1")
	var queued []session.Task
	for i := range 5 {
		queued = append(queued, w.submitAs(a, fmt.Sprint("q", i), hold))
	}
	last := w.submitAs(b, "b", "echo")
	w.letGo("a0")
	w.wait(running[0])
	w.wait(last) // before a's five, each of which would hold its place
	w.letGo("a1")
	for i := range queued {
		w.started(fmt.Sprint("q", i))
		w.letGo(fmt.Sprint("q", i))
		w.wait(queued[i])
	}
}

// TestKeyBudget holds what the gateway is told of a task's key.
func TestKeyBudget(t *testing.T) {
	w := newWorld(t, nil)
	a, free := w.key("a", func(k *session.APIKey) { k.BudgetUSD = 0.75 }), w.key("free", nil)
	for spent := 0.0; spent < 0.75; spent += 0.5 { // what the shell says that a turn costs
		b, err := w.KeyBudget(t.Context(), a.KeyID)
		if err != nil || b.LimitUSD != 0.75 || b.SpentUSD != spent || b.Over() || b.RenewsAt.Before(time.Now()) {
			t.Errorf("before $%v: %+v, %v", spent, b, err)
		}
		w.wait(w.submitAs(a, "s", "echo"))
	}
	if b, err := w.KeyBudget(t.Context(), a.KeyID); err != nil || !b.Over() {
		t.Errorf("at the end: %+v, %v", b, err)
	}
	_, err := w.View(a).Submit(t.Context(), session.Submission{SessionID: "s", Request: session.Request{Message: "echo"}})
	if session.CodeOf(err) != session.CodeBudget {
		t.Errorf("one more: %v", err)
	}
	for _, owner := range []string{"", free.KeyID, "nobody"} {
		if b, err := w.KeyBudget(t.Context(), owner); err != nil || b.LimitUSD != 0 || b.Over() {
			t.Errorf("%q: %+v, %v", owner, b, err)
		}
	}
}

// TestAuditOutlivesClose holds that what waits to be written is, when the
// manager closes, and what comes later too.
func TestAuditOutlivesClose(t *testing.T) {
	w := newWorld(t, nil)
	for range 100 {
		if err := w.Audit(t.Context(), session.AuditEntry{Action: "read.session", Status: 200}, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, wait := range []bool{true, false} {
		if err := w.Audit(t.Context(), session.AuditEntry{Action: "late", Status: 200}, wait); err != nil {
			t.Error(err)
		}
	}
	if got, err := w.AuditTrail(t.Context(), session.AuditQuery{Limit: 1000}); err != nil || len(got) != 102 {
		t.Errorf("%d entries, %v", len(got), err)
	}
}

func TestBadKeys(t *testing.T) {
	submit := []session.Scope{session.ScopeSubmit}
	for name, k := range map[string]session.APIKey{
		"no name":         {Scopes: submit},
		"a bad name":      {Name: "a b", Scopes: submit},
		"no scopes":       {Name: "a"},
		"a bad scope":     {Name: "a", Scopes: []session.Scope{"write"}},
		"a bad rate":      {Name: "a", Scopes: submit, Rate: -1},
		"bad concurrency": {Name: "a", Scopes: submit, Concurrency: -1},
		"a bad budget":    {Name: "a", Scopes: submit, BudgetUSD: -1},
	} {
		if _, secret, err := session.NewAPIKey(k); err == nil || secret != "" {
			t.Errorf("%s: %q, %v", name, secret, err)
		}
	}
	seen := map[string]bool{}
	for range 100 {
		k, secret, err := session.NewAPIKey(session.APIKey{Name: "a", Scopes: submit})
		if err != nil || session.SecretID(secret) != k.ID || seen[k.ID] || seen[secret] {
			t.Fatalf("%+v, %q, %v", k, secret, err)
		}
		seen[k.ID], seen[secret] = true, true
	}
}
