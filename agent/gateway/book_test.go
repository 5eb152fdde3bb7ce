package gateway_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/agent"
	"claude-runner/agent/gateway"
)

// TestBook: the daemon writes down what was spent, and nothing of budgets and
// meters of which nothing was; the budget of one task goes with its meter.
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
	waitFor(t, "the meter and its budget to be gone", func() bool {
		return !strings.Contains(book(), `"called"`) && !strings.Contains(book(), `"task:called"`)
	})
	if !strings.Contains(book(), `"session:called"`) {
		t.Error("what the session spent is forgotten with one task of it")
	}
}
