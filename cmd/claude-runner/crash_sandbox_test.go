package main

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"claude-runner/backends"
)

// Where the runner's host is restarted, the sandbox goes with the runner. What the
// task had spent by then is told, and nothing of the sandbox is left.
func TestCrashOfTheSandboxToo(t *testing.T) {
	for _, backend := range []string{"docker", "podman", "local"} {
		t.Run(backend, func(t *testing.T) {
			c := newCrash(t, backend, 0)
			if status, answer, err := c.try(`{"sessionId": "lost", "message": "stay", "async": true}`, "lost"); err != nil || status != http.StatusAccepted {
				t.Fatalf("%d %s, %v", status, answer, err)
			}
			eventually(t, time.Minute, "the agent's tool runs", func() bool {
				return slices.ContainsFunc(c.whole("lost"), func(e crashEvent) bool { return e.Type == "tool_start" })
			})
			c.kill()
			c.sandboxes(func(b backends.Backend, handles []backends.Handle) {
				if len(handles) == 0 {
					t.Error("the sandbox has not outlived the runner")
				}
				for _, h := range handles {
					if err := backends.Remove(t.Context(), b, h, 0); err != nil {
						t.Error(err)
					}
				}
			})
			c.start()
			c.steps["lost"] = 1
			eventually(t, time.Minute, "the task has failed", func() bool {
				return slices.ContainsFunc(c.tasks(), func(task crashTask) bool {
					return task.SessionID == "lost" && task.Status == "failed" && strings.Contains(task.Error, "sandbox is gone")
				})
			})
			c.checkCosts()
			c.stop()
			c.checkRemains()
		})
	}
}
