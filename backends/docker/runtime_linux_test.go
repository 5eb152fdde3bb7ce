package docker_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/docker"
)

// A runtime that crashes once costs a user nothing; one that always does is
// given up after the second time, and what it says no to at once.
func TestRuntimeFails(t *testing.T) {
	tests := []struct {
		runtime string
		fails   int // how often, before it works
		why     string
		asked   int
		want    error // of the start
		says    string
	}{
		{runtime: "crashes-once", fails: 1, why: "crashed", asked: 2},
		{runtime: "crashes", fails: 9, why: "crashed", asked: 2, says: "the container's runtime failed"},
		{runtime: "refuses", fails: 9, why: "no such file or directory", asked: 1, want: backends.ErrInvalidSpec, says: "no such file"},
	}
	dir := t.TempDir()
	runtimes := map[string]any{}
	for _, test := range tests {
		path := filepath.Join(dir, test.runtime)
		script := fmt.Sprintf(`#!/bin/sh
case " $* " in *" create "*)
	echo >>%[1]s.asked
	if [ "$(wc -l <%[1]s.asked)" -le %[2]d ]; then
		while [ "$1" != --log ]; do shift; done
		echo '{"level":"error","msg":"%[3]s"}' >>"$2"
		exit 2
	fi
esac
exec runc "$@"
`, path, test.fails, test.why)
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		runtimes[test.runtime] = map[string]any{"path": path}
	}
	d := newDockerdWith(t, runtimes)
	d.load("tool")

	for _, test := range tests {
		t.Run(test.runtime, func(t *testing.T) {
			b := newBackend(t, docker.Config{Host: d.host(), Runtime: test.runtime}, test.runtime)
			t.Cleanup(func() { _ = b.Close() })
			w := backendtest.OwnedDir(t, testUser())
			spec := backends.Spec{
				Name: "one", Image: "tool", Pull: backends.PullNever, Argv: []string{"/tool", "touch", "/w/ran"},
				User: testUser(), Mounts: []backends.Mount{{Source: w, Target: "/w"}}, Network: backends.NetworkNone,
			}
			if test.says == "" {
				said(t, b, spec)
				if _, err := os.Stat(filepath.Join(w, "ran")); err != nil {
					t.Error("the sandbox did not run: ", err)
				}
			} else if _, err := b.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), test.says) || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("the start fails with %v, want %q", err, test.says)
			}
			left, err := d.cli.ContainerList(t.Context(), container.ListOptions{All: true})
			if err != nil || len(left) != 0 {
				t.Errorf("containers left: %+v, %v", left, err)
			}
			asked, err := os.ReadFile(filepath.Join(dir, test.runtime+".asked"))
			if n := strings.Count(string(asked), "\n"); err != nil || n != test.asked {
				t.Errorf("the runtime is asked for %d containers (%v), want %d", n, err, test.asked)
			}
		})
	}
}
