package helper_test

import (
	"bytes"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/helper"
)

// TestMain is not reached where the test's own program was started as a helper.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what should take a moment, and only fails a test.
const patience = time.Minute

// install installs this test's program as the helper.
func install(t testing.TB) *helper.Program {
	t.Helper()
	p, err := helper.Install(backendtest.SharedDir(t))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// command is a helper on this host, in front of a shell script. It is killed at
// the test's end.
func command(t testing.TB, o helper.Options, script string) *exec.Cmd {
	t.Helper()
	return commandOf(t, o, "sh", "-c", script)
}

func commandOf(t testing.TB, o helper.Options, argv ...string) *exec.Cmd {
	t.Helper()
	args, mounts, err := install(t).Command(backends.Capabilities{}, argv, o)
	if err != nil || len(mounts) > 0 {
		t.Fatalf("Command: mounts %v, %v", mounts, err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	t.Cleanup(func() {
		if cmd.Process != nil && cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// run runs cmd to its end and returns its output.
func run(t testing.TB, cmd *exec.Cmd) (stdout, stderr string, status syscall.WaitStatus) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	_ = cmd.Wait()
	return out.String(), errs.String(), cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// eventually polls cond until it is true, and fails the test where it never is.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 400)], "?") }
