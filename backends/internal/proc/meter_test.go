package proc_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"claude-runner/backends/internal/proc"
)

// TestMeterAsks measures what is no container of this host: the engine's figures
// are all there are.
func TestMeterAsks(t *testing.T) {
	var m proc.Meter
	var firsts, asked int
	pid := 0
	failure := errors.New("the engine is away")
	answer, failed := proc.Usage{CPU: time.Second, Memory: 5}, error(nil)
	measure := func() error {
		return m.Measure(id,
			func() (int, error) { firsts++; return pid, nil },
			func() (proc.Usage, error) { asked++; return answer, failed })
	}
	expect := func(when string, err error, want proc.Usage, wantFirsts, wantAsked int) {
		t.Helper()
		if got := measure(); !errors.Is(got, err) {
			t.Errorf("%s: error %v, want %v", when, got, err)
		}
		if got := m.Last(); got != want || firsts != wantFirsts || asked != wantAsked {
			t.Errorf("%s: %+v with %d and %d requests, want %+v with %d and %d", when, got, firsts, asked, want, wantFirsts, wantAsked)
		}
	}
	expect("before it runs", nil, proc.Usage{}, 1, 0)
	pid = os.Getpid()
	expect("the first figures", nil, proc.Usage{CPU: time.Second, Memory: 5, MemoryPeak: 5}, 2, 1)
	answer = proc.Usage{CPU: 2 * time.Second, Memory: 3}
	expect("less memory", nil, proc.Usage{CPU: 2 * time.Second, Memory: 3, MemoryPeak: 5}, 2, 2)
	answer = proc.Usage{}
	expect("it has ended", nil, proc.Usage{CPU: 2 * time.Second, Memory: 3, MemoryPeak: 5}, 2, 3)
	failed = failure
	expect("no answer", failure, proc.Usage{CPU: 2 * time.Second, Memory: 3, MemoryPeak: 5}, 2, 4)
}
