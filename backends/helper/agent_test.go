package helper_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"claude-runner/backends/helper"
)

// TestStartsFirst holds the helper's start against what makes it slow: packages
// of the program that are initialised before it.
func TestStartsFirst(t *testing.T) {
	cmd := exec.Command(build(t, runtime.GOOS), "--", "true")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	_, trace, status := run(t, cmd)
	if status != 0 || !strings.Contains(trace, "init os ") {
		t.Fatalf("status %#x, trace %q", status, trace)
	}
	for _, late := range []string{"init net ", "init regexp ", "init claude-runner/backends ", "landlock"} {
		if strings.Contains(trace, late) {
			t.Errorf("%q comes before the helper", late)
		}
	}
}

func TestExit(t *testing.T) {
	for _, code := range []int{0, 1, 3, 255} {
		if _, errs, status := run(t, command(t, helper.Options{}, fmt.Sprintf("exit %d", code))); status != syscall.WaitStatus(code<<8) || errs != "" {
			t.Errorf("exit %d becomes %#x, stderr %q", code, status, errs)
		}
	}
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGPIPE, syscall.SIGTERM, syscall.SIGUSR1} {
		if _, errs, status := run(t, command(t, helper.Options{}, fmt.Sprintf("kill -%d $$; sleep 60", s))); status.Signal() != s || errs != "" {
			t.Errorf("signal %d becomes %#x, stderr %q", s, status, errs)
		}
	}
}

func TestNotStarted(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	orphan := filepath.Join(dir, "orphan")
	if err := os.WriteFile(orphan, []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for program, c := range map[string]struct {
		code int
		want string
	}{
		"no-such-program": {helper.ExitNotFound, "search path"},
		"/no/such/file":   {helper.ExitNotFound, "/no/such/file"},
		orphan:            {helper.ExitNotFound, orphan},
		"plain":           {helper.ExitNotExecutable, "not executable"},
		plain:             {helper.ExitNotExecutable, plain},
		dir:               {helper.ExitNotExecutable, dir},
	} {
		cmd := commandOf(t, helper.Options{}, program)
		cmd.Env = []string{"PATH=/usr/bin:/bin:" + dir}
		out, errs, status := run(t, cmd)
		if status.ExitStatus() != c.code || !strings.Contains(errs, c.want) || out != "" {
			t.Errorf("%s: status %#x, want %d; stdout %q, stderr %q, want %q in it", program, status, c.code, out, errs, c.want)
		}
	}
	cmd := commandOf(t, helper.Options{}, "true")
	cmd.Args = []string{cmd.Args[0], "-verbose", "x", "--", "true"}
	if _, errs, status := run(t, cmd); status.ExitStatus() != helper.ExitUsage || !strings.Contains(errs, "-verbose") {
		t.Errorf("an unknown option: status %#x, stderr %q", status, errs)
	}
}

func TestStreams(t *testing.T) {
	t.Run("stdin and its end reach the agent", func(t *testing.T) {
		cmd := command(t, helper.Options{}, "cat; echo end; echo err >&2")
		cmd.Stdin = strings.NewReader("line\n")
		if out, errs, status := run(t, cmd); out != "line\nend\n" || errs != "err\n" || status != 0 {
			t.Errorf("stdout %q, stderr %q, status %#x", out, errs, status)
		}
	})
	t.Run("64 MiB of output are whole", func(t *testing.T) {
		out, _, _ := run(t, command(t, helper.Options{}, "head -c 67108864 /dev/zero | tr '\\0' x"))
		if len(out) != 64<<20 || strings.Trim(out, "x") != "" {
			t.Errorf("%d bytes, want %d of x", len(out), 64<<20)
		}
	})
	t.Run("working folder and environment are the helper's own", func(t *testing.T) {
		cmd := command(t, helper.Options{}, "pwd -P; env")
		cmd.Dir, cmd.Env = "/usr", []string{"PATH=/usr/bin:/bin", "A=b=c", "EMPTY="}
		out, _, _ := run(t, cmd)
		for _, want := range []string{"/usr\n", "\nA=b=c\n", "\nEMPTY=\n"} {
			if !strings.Contains("\n"+out, want) {
				t.Errorf("output %q has no %q", out, want)
			}
		}
	})
	t.Run("no file of the helper's is open in the agent", func(t *testing.T) {
		const list = "ls -l /dev/fd/ | grep -c -e socket: -e eventpoll -e eventfd"
		bare, _ := exec.Command("sh", "-c", list).Output() // what this test has from its parent
		out, _, _ := run(t, command(t, helper.Options{Socket: "/no/such/socket"}, list))
		if out != string(bare) {
			t.Errorf("%s of the helper's files, and %s of others", out, bare)
		}
	})
}

func TestSignalsArePassedOn(t *testing.T) {
	for s, name := range map[syscall.Signal]string{
		syscall.SIGTERM: "TERM", syscall.SIGINT: "INT", syscall.SIGHUP: "HUP", syscall.SIGQUIT: "QUIT",
		syscall.SIGUSR1: "USR1", syscall.SIGUSR2: "USR2", syscall.SIGWINCH: "WINCH",
	} {
		cmd := command(t, helper.Options{}, "trap 'echo got; exit 7' "+name+"; echo ready; while :; do sleep 0.01; done")
		out := begin(t, cmd)
		expectLine(t, out, "ready")
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		expectLine(t, out, "got")
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("%s: the helper ends with %v, want code 7", name, cmd.ProcessState)
		}
	}
	t.Run("the helper ends by the signal that ended the agent", func(t *testing.T) {
		cmd := command(t, helper.Options{}, "echo ready; exec sleep 600")
		expectLine(t, begin(t, cmd), "ready")
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if _ = cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
			t.Errorf("the helper ends with %v, want SIGTERM", cmd.ProcessState)
		}
	})
}

// TestDescendants needs a system that gives orphans to the helper.
func TestDescendants(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("a subreaper is Linux's")
	}
	t.Run("orphans are collected", func(t *testing.T) {
		cmd := command(t, helper.Options{}, "for i in 1 2 3 4 5 6 7 8; do (sleep 0.01 &); done; (sleep 600 >/dev/null 2>&1 & echo $!); echo ready; read x")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out := begin(t, cmd)
		pid := readLine(t, out)
		expectLine(t, out, "ready")
		defer func() { _ = exec.Command("kill", "-9", pid).Run() }()
		eventually(t, "the helper's children are the agent and the orphan that lives", func() bool {
			children, _ := exec.Command("ps", "-o", "stat=", "--ppid", fmt.Sprint(cmd.Process.Pid)).Output()
			return len(strings.Fields(string(children))) == 2 && !strings.Contains(string(children), "Z")
		})
		_ = in.Close() // the agent ends, and its orphan is not waited for
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("the helper ends with %v, want code 1", cmd.ProcessState)
		}
		if err := exec.Command("kill", "-0", pid).Run(); err != nil {
			t.Errorf("the orphan has ended with the helper: %v", err)
		}
	})
	t.Run("the agent does not outlive a helper that is killed", func(t *testing.T) {
		cmd := command(t, helper.Options{}, "echo $$; exec sleep 600")
		pid := readLine(t, begin(t, cmd))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		eventually(t, "the agent's end", func() bool { return exec.Command("kill", "-0", pid).Run() != nil })
	})
}

// begin starts cmd and returns its output.
func begin(t testing.TB, cmd *exec.Cmd) *bufio.Reader {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(out)
}

func readLine(t testing.TB, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return strings.TrimSuffix(line, "\n")
}

func expectLine(t testing.TB, r *bufio.Reader, want string) {
	t.Helper()
	if got := readLine(t, r); got != want {
		t.Fatalf("read %q, want %q", got, want)
	}
}
