package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"claude-runner/backends/backendtest"
)

// TestServeRefusesDataFolder holds that a data folder that will not do is
// refused with what to do about it, before anything is served.
func TestServeRefusesDataFolder(t *testing.T) {
	t.Run("a damaged database", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "runner.db"), strings.Repeat("no database ", 1000))
		setenv(t, with(variables(t, "local", "http://127.0.0.1:9"), "DATA_DIR", dir))
		ctx, cancel := context.WithTimeoutCause(t.Context(), waitLong, errors.New("it serves"))
		defer cancel()
		o := command(ctx, "", "serve", "--config", testConfig)
		for _, want := range []string{filepath.Join(dir, "runner.db"), "the file is damaged", "backup"} {
			if o.code != exitFailed || !strings.Contains(o.stderr, want) {
				t.Errorf("code %d, want %q in:\n%s", o.code, want, o.stderr)
			}
		}
	})
	t.Run("another user's", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can be another user")
		}
		dir := backendtest.SharedDir(t)
		file := filepath.Join(dir, "config.yaml")
		text := fmt.Sprintf("server: {listen: \"127.0.0.1:0\"}\ndata_dir: %q\nagents: {worker: {backend: local}}\n", filepath.Join(dir, "data"))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		// The test's binary may lie where other users do not come; this way leads to it.
		cmd := exec.Command("/proc/self/exe")
		cmd.Dir, cmd.Env = dir, []string{"PATH=/usr/bin:/bin", asServer + "=serve\n--config\n" + file}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 10001, Gid: 10001}}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Skip("nothing can be run as another user here: ", err)
		}
		if cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(string(out), "permission denied; set data_dir to a folder that this user may write") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
