package session_test

import (
	"strings"
	"testing"
	"time"

	"claude-runner/agent"
	"claude-runner/backends"
	"claude-runner/session"
)

func TestOutputLimit(t *testing.T) {
	w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.Limits.Output = 64 << 10 })
	if got := w.run("s", "yes 0123456789 | head -n 300"); len(got) < 300*11-1 {
		t.Errorf("an answer below the limit has %d bytes", len(got))
	}
	for _, bomb := range []string{`yes "$(printf %01000d 0)"`, `(trap '' TERM; yes "$(printf %01000d 0)") & sleep 1000`} {
		got := w.wait(w.submit("s", bomb))
		f := got.Result.Error
		if got.State != session.TaskFailed || f == nil || f.Code != session.CodeOutputLimit || !strings.Contains(f.Message, "agents.shell.limits.output") {
			t.Errorf("%s: %s %+v", bomb, got.State, f)
		}
	}
	if got := w.run("s", "echo again"); got != "again" {
		t.Errorf("afterwards: %q", got)
	}
}

func TestDiskLimit(t *testing.T) {
	w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.Limits.Disk = 4 << 20 })
	w.run("s", "truncate -s 1G hole; head -c 1000000 /dev/zero > ok; ln ok ok2")
	for _, bomb := range []string{
		"head -c 10000000 /dev/zero > big; sleep 1000",
		"mkdir -p many; cd many; for i in $(seq 10000); do : > $i; done; sleep 1000",
		"p=$HOME; for i in $(seq 10); do p=$p/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a; mkdir -p $p; done; sleep 1000",
	} {
		got := w.wait(w.submit("s", bomb))
		if f := got.Result.Error; got.State != session.TaskFailed || f == nil || f.Code != session.CodeDiskLimit || !strings.Contains(f.Message, "reset or delete the session, or raise agents.shell.limits.disk") {
			t.Errorf("%.30s: %s %+v", bomb, got.State, f)
		}
		began := time.Now()
		next := w.wait(w.submit("s", "echo cleaned"))
		if f := next.Result.Error; f == nil || f.Code != session.CodeDiskLimit || time.Since(began) > 30*time.Second {
			t.Errorf("a session beyond its limit goes on: %s %+v", next.State, f)
		}
		if err := w.Reset(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
		if got := w.run("s", "echo again"); got != "again" {
			t.Errorf("after a reset: %q", got)
		}
	}
}

func TestLoosenedWallsAreSaid(t *testing.T) {
	w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.Hardening = backends.Hardening{NewPrivileges: true} })
	got := w.wait(w.submit("s", "echo"))
	if len(got.Result.Warnings) != 1 || !strings.Contains(got.Result.Warnings[0], "new_privileges") {
		t.Errorf("warnings: %q", got.Result.Warnings)
	}
}
