package gateway_test

import (
	"errors"
	"net/http"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"claude-runner/agent/gateway"
)

// TestRenew: a lease that is opened again for another task counts its calls
// under that one's meter and holds its budgets, a daemon that was started
// meanwhile included.
func TestRenew(t *testing.T) {
	_, url := upstream(t, `rules: [{answer: [{text: hi}], usage: {input_tokens: 100, output_tokens: 7}}]`, scriptedOptions)
	dir := t.TempDir()
	client := start(t, dir)
	l := simpleLease(filepath.Join(t.TempDir(), "socket"), url)
	call := func(want int) {
		t.Helper()
		response, text := do(t, inside(t, l.Socket), request(t.Context(), body(true, "hi")))
		if response.StatusCode != want {
			t.Fatalf("%s %s", response.Status, text)
		}
	}
	calls := func(meter string) int64 {
		t.Helper()
		got, err := client.Totals(t.Context(), meter)
		if err != nil {
			t.Fatal(err)
		}
		return got.Calls
	}
	for i, meter := range []string{"first", "second", "third"} {
		if i == 2 {
			signal(t, daemons(t, dir), syscall.SIGKILL)
		}
		l.Meter = meter
		if err := client.Open(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		call(http.StatusOK)
		if got := calls(meter); got != 1 {
			t.Errorf("%d calls under the meter %s", got, meter)
		}
	}
	if err := client.Forget(t.Context(), "third"); err != nil {
		t.Fatal(err)
	}
	if got := calls("third"); got != 0 {
		t.Errorf("%d calls under a meter that is forgotten", got)
	}
	l.Budgets = []gateway.Budget{{Name: "task:spent", LimitUSD: 1, SpentUSD: 1}}
	if err := client.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if response, _ := do(t, inside(t, l.Socket), request(t.Context(), body(true, "hi"))); response.StatusCode == http.StatusOK {
		t.Error("a budget that is spent lets a call through")
	}
	l.Budgets[0].LimitUSD = 0
	if err := client.Open(t.Context(), l); !errors.Is(err, gateway.ErrInvalidLease) {
		t.Errorf("a budget without a limit: %v", err)
	}
}

// TestManyQuestions: those that come together are each answered with their own.
func TestManyQuestions(t *testing.T) {
	_, url := upstream(t, `rules: [{answer: [{text: hi}], usage: {input_tokens: 100, output_tokens: 7}}]`, scriptedOptions)
	client := start(t, t.TempDir())
	l := simpleLease(filepath.Join(t.TempDir(), "socket"), url)
	l.Meter = "one"
	if err := client.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if response, text := do(t, inside(t, l.Socket), request(t.Context(), body(true, "hi"))); response.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", response.Status, text)
	}
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			meter, want := "one", int64(1)
			if i%2 == 0 {
				meter, want = "other", 0
			}
			if got, err := client.Totals(t.Context(), meter); err != nil || got.Calls != want {
				t.Errorf("%s: %d calls, want %d: %v", meter, got.Calls, want, err)
			}
		})
	}
	all.Wait()
}
