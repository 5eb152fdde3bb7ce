package clitest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/agent/clitest"
)

func TestCommandRunsTheCLI(t *testing.T) {
	cmd := clitest.Command(t.Context(), t, clitest.Dir(t), "http://127.0.0.1:1", nil, "--version")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Claude Code") {
		t.Fatalf("claude --version: %v\n%s", err, out)
	}
}

// A checkout below a folder of root's own is not in the unprivileged user's reach.
func TestPathIsRunnableByTheUnprivilegedUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, whose folders others cannot enter")
	}
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	hidden := filepath.Join(closed, "claude")
	if err := os.WriteFile(hidden, []byte("#!/bin/sh\necho \"uid $(id -u)\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv(clitest.EnvPath, hidden)

	out, err := clitest.Command(t.Context(), t, clitest.Dir(t), "", nil).CombinedOutput()
	if err != nil || string(out) != "uid 65534\n" {
		t.Fatalf("got %q, %v", out, err)
	}
}

func TestPathSkipsWithTheReason(t *testing.T) {
	t.Setenv(clitest.EnvPath, filepath.Join(t.TempDir(), "none"))
	t.Setenv("CI", "")
	var skipped bool
	t.Run("skips", func(t *testing.T) {
		defer func() { skipped = t.Skipped() }()
		clitest.Path(t)
	})
	if !skipped {
		t.Fatal("a missing CLI did not skip the test")
	}
}
