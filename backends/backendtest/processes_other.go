//go:build !linux

package backendtest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// processes lists this host's processes that carry the suite's mark, in their
// environment or their arguments.
func (s *suite) processes(t testing.TB) []string { return helpers(t, s.mark) }

// helpers lists this host's processes that have text in their environment or
// arguments, but for the test's own.
func helpers(t testing.TB, text string) []string {
	t.Helper()
	list, err := exec.Command("ps", "-Aww", "-E", "-o", "pid=,command=").Output()
	if err != nil {
		t.Fatalf("ps: %v", err)
	}
	var out []string
	for line := range strings.Lines(string(list)) {
		pid, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.Contains(line, text) && pid != fmt.Sprint(os.Getpid()) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}
