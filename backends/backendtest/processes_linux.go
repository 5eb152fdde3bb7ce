package backendtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// processes lists this host's processes that carry the suite's mark, in their
// environment or their arguments.
func (s *suite) processes(t testing.TB) []string {
	return findProcesses(t, func(environ, cmdline string) bool {
		return strings.Contains(environ, markVar+"="+s.mark) || strings.Contains(cmdline, s.mark)
	})
}

// helpers lists this host's processes that have text in their arguments.
func helpers(t testing.TB, text string) []string {
	return findProcesses(t, func(_, cmdline string) bool { return strings.Contains(cmdline, text) })
}

// findProcesses lists the processes, but for the test's own, that match. The
// environment of another user's process reads as empty, unless the test is root.
func findProcesses(t testing.TB, match func(environ, cmdline string) bool) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, dir := range dirs {
		if filepath.Base(dir) == fmt.Sprint(os.Getpid()) {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join(dir, "environ")) // it may have ended
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if match(string(environ), string(cmdline)) {
			out = append(out, filepath.Base(dir)+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	return out
}
