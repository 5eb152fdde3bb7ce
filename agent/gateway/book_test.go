package gateway_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/agent"
	"claude-runner/agent/gateway"
	"claude-runner/agent/scripted"
)

// TestBook: the daemon writes down what was spent, and nothing of budgets and
// meters of which nothing was; the budget of one task goes when its
// meter and its lease have.
func TestBook(t *testing.T) {
	_, url := upstream(t, `rules: [{answer: [{text: hi}], usage: {input_tokens: 100, output_tokens: 7}}]`, scriptedOptions)
	dir := t.TempDir()
	client := start(t, dir)
	l := simpleLease(filepath.Join(t.TempDir(), "socket"), url)
	open := func(meter string, spent float64) {
		t.Helper()
		l.Meter = meter
		l.Budgets = []gateway.Budget{
			{Name: agent.TaskBudget(meter), LimitUSD: 1}, {Name: "session:" + meter, LimitUSD: 1, SpentUSD: spent},
		}
		if err := client.Open(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	book := func() string {
		text, _ := os.ReadFile(filepath.Join(dir, "gateway.v1.json"))
		return string(text)
	}
	open("quiet", 0)
	open("earlier", 0.5)
	waitFor(t, "what was spent earlier to be written down", func() bool { return strings.Contains(book(), `"session:earlier"`) })
	open("called", 0)
	if response, text := do(t, inside(t, l.Socket), request(t.Context(), body(true, "hi"))); response.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", response.Status, text)
	}
	waitFor(t, "what was spent to be written down", func() bool {
		return strings.Contains(book(), `"task:called"`) && strings.Contains(book(), `"session:called"`)
	})
	if text := book(); strings.Contains(text, "quiet") || strings.Contains(text, "task:earlier") {
		t.Errorf("of what cost nothing there is something: %s", text)
	}
	if err := client.Forget(t.Context(), "called"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the meter to be gone", func() bool { return !strings.Contains(book(), `"called"`) })
	if !strings.Contains(book(), `"task:called"`) {
		t.Error("the task's budget is gone while its sandbox may call")
	}
	open("next", 0)
	waitFor(t, "the task's budget to be gone", func() bool { return !strings.Contains(book(), `"task:called"`) })
	if !strings.Contains(book(), `"session:called"`) {
		t.Error("what the session spent is forgotten with one task of it")
	}
}

// What a sandbox calls between two tasks is held to the budget of the one that has
// ended, though it is forgotten.
func TestForgottenTaskKeepsItsBudget(t *testing.T) {
	_, url := upstream(t, greeting, scripted.Options{})
	l := lease(t, url)
	l.Budgets = []gateway.Budget{{Name: agent.TaskBudget(l.Meter), LimitUSD: 0.001}}
	g, client := open(t, l, gateway.Options{})
	call := func() int {
		response, _ := do(t, client, request(t.Context(), body(true, "hi")))
		return response.StatusCode
	}
	if status := call(); status != http.StatusOK {
		t.Fatalf("the first call: %d", status)
	}
	if err := g.Forget(t.Context(), l.Meter); err != nil {
		t.Fatal(err)
	}
	if status := call(); status != http.StatusForbidden {
		t.Errorf("a call after the task: %d", status)
	}
	next := l
	next.Meter = "next"
	next.Budgets = []gateway.Budget{{Name: agent.TaskBudget(next.Meter), LimitUSD: 1}}
	if err := g.Open(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if status := call(); status != http.StatusOK {
		t.Errorf("a call of the next task: %d", status)
	}
}
