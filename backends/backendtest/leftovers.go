package backendtest

import (
	"testing"
	"time"
)

// expectNothingLeft fails the test when, at its end and with all its sandboxes
// stopped, anything of a sandbox is still there. It goes before all else in a
// test, so that its clean-up comes last.
func (s *suite) expectNothingLeft(t *testing.T) {
	t.Cleanup(func() { s.checkNothingLeft(t) })
}

// checkNothingLeft fails the test when anything of a sandbox is there now.
// Processes of sandboxes get no time at all; helper processes of an engine,
// which are known by the sandbox's name in their arguments, a moment.
func (s *suite) checkNothingLeft(t testing.TB) {
	t.Helper()
	for _, p := range s.processes(t) {
		t.Errorf("a process of a sandbox is left: %s", p)
	}
	for _, l := range s.Leftovers(t) {
		t.Errorf("left behind: %s", l)
	}
	deadline := time.Now().Add(2 * time.Second)
	for len(helpers(t, s.name)) > 0 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	for _, p := range helpers(t, s.name) {
		t.Errorf("a helper process of a sandbox is left: %s", p)
	}
}
