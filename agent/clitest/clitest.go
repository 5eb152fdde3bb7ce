// Package clitest gives tests the real Claude Code CLI, and a user and folders
// that it can run with. Only tests import it.
package clitest

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// EnvPath is the environment variable that names the CLI's binary.
const EnvPath = "CLAUDE_RUNNER_TEST_CLI"

// UnprivilegedID is the user and group that the CLI runs as in tests that run
// as root, since the CLI refuses to bypass permissions for root.
const UnprivilegedID = 65534

// Path returns the CLI's binary: $CLAUDE_RUNNER_TEST_CLI, else .tools/bin/claude
// in the repository's root, else claude in PATH. Without one it skips the test,
// or fails it where CI=true. The path can be run by UnprivilegedID.
func Path(t testing.TB) string {
	t.Helper()
	path, err := find()
	switch {
	case err == nil:
		return runnableByAll(t, path)
	case os.Getenv("CI") == "true":
		t.Fatalf("the Claude Code CLI is missing: %v", err)
	default:
		t.Skipf("the Claude Code CLI is missing: %v", err)
	}
	return ""
}

// Dir returns a new folder that belongs to the user whom Command runs as, and
// which that user can reach. It is removed when the test ends.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "clitest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, UnprivilegedID, UnprivilegedID); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Command returns the CLI in the folder home, which is its HOME and working
// folder, with its model calls going to baseURL and nothing of this process's
// environment. env adds to its variables and wins over them. The process is
// killed when ctx ends, its tools' processes are not.
func Command(ctx context.Context, t testing.TB, home, baseURL string, env map[string]string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, Path(t), args...)
	cmd.Dir = home
	vars := map[string]string{
		"HOME":               home,
		"PATH":               "/usr/local/bin:/usr/bin:/bin",
		"ANTHROPIC_BASE_URL": baseURL,
		"ANTHROPIC_API_KEY":  "sk-ant-scripted",
		"DISABLE_TELEMETRY":  "1", "DISABLE_AUTOUPDATER": "1",
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
		"CLAUDE_CODE_MAX_RETRIES":                  "0",
		"NO_PROXY":                                 "127.0.0.1,localhost",
	}
	for name, value := range env {
		vars[name] = value
	}
	for name, value := range vars {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: UnprivilegedID, Gid: UnprivilegedID}}
	}
	return cmd
}

func find() (string, error) {
	if path := os.Getenv(EnvPath); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", errors.New(EnvPath + "=" + path + " is not there: run `make cli`, or unset it")
		}
		return filepath.Abs(path)
	}
	if root, ok := repositoryRoot(); ok {
		path := filepath.Join(root, ".tools", "bin", "claude")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	if path, err := exec.LookPath("claude"); err == nil {
		return filepath.Abs(path)
	}
	return "", errors.New("run `make cli`, or set " + EnvPath + " to its path")
}

// repositoryRoot is the nearest parent of the working folder with a go.mod.
func repositoryRoot() (string, bool) {
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", false
		}
		dir = parent
	}
}

// runnableByAll returns path, or, where root runs the test and other users
// cannot reach path (a checkout in /root), a link or copy that they can run.
func runnableByAll(t testing.TB, path string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		return path
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	if reachable(real) {
		return path
	}
	to := filepath.Join(Dir(t), "claude")
	if err := os.Link(real, to); err == nil && reachable(to) {
		return to
	}
	_ = os.Remove(to)
	if err := copyFile(to, real); err != nil {
		t.Fatalf("copy the CLI to where uid %d can run it: %v", UnprivilegedID, err)
	}
	return to
}

// reachable reports whether users who own nothing on the way can run path.
func reachable(path string) bool {
	for p := path; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return false
		}
		owned := info.Sys().(*syscall.Stat_t).Uid == UnprivilegedID && info.Mode().Perm()&0o100 != 0
		if info.Mode().Perm()&0o001 == 0 && !owned {
			return false
		}
		if p == filepath.Dir(p) {
			return true
		}
	}
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
