package examples_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"claude-runner/agent/clitest"
)

func TestDemo(t *testing.T) {
	requireBackends(t, "local") // some backend is needed, and this one needs nothing else
	var chosen string
	t.Run("first backend that works", func(t *testing.T) {
		out := checkDemo(t)
		if m := regexp.MustCompile(`Backend: (\w+)\.`).FindStringSubmatch(out); m != nil {
			chosen = m[1]
		}
	})
	for _, backend := range []string{"docker", "podman", "local"} {
		if backend == chosen {
			continue
		}
		t.Run(backend, func(t *testing.T) {
			requireBackends(t, backend)
			out := checkDemo(t, "DEMO_BACKEND="+backend)
			if !strings.Contains(out, "Backend: "+backend+".") {
				t.Errorf("it ran on another backend\n%s", out)
			}
		})
	}
}

// checkDemo runs the demo without a key, and returns its output.
func checkDemo(t *testing.T, env ...string) string {
	t.Helper()
	d := startDemo(t, env...)
	code := d.wait(t)
	out := d.out.String()
	for _, want := range []string{
		"No key is set",
		"acme-cli.sh user lookup 'alice@startup.io'",
		"acme-cli.sh user usage 'usr_1001'",
		`"response": "Hi Alice! You have 188 calls remaining on the Growth plan."`,
		`"response": "You are on the Growth plan, Alice."`,
		"Both tasks succeeded.", "Model API: scripted",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if !regexp.MustCompile(`cost \$0\.\d*[1-9]`).MatchString(out) {
		t.Error("the cost is missing")
	}
	if code != 0 || t.Failed() {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	return out
}

// With a key the demo goes where the key is for.
func TestDemoWithKey(t *testing.T) {
	requireBackends(t, "local")
	url := startScripted(t, "support-agent/script.yaml")
	d := startDemo(t, "DEMO_BACKEND=local", "ANTHROPIC_AUTH_TOKEN=x", "ANTHROPIC_BASE_URL="+url)
	if code := d.wait(t); code != 0 || !strings.Contains(d.out.String(), "Model API: "+url) || strings.Contains(d.out.String(), "scripted") {
		t.Fatalf("exit code %d\n%s", code, &d.out)
	}
}

func TestDemoFails(t *testing.T) {
	d := startDemo(t, "DEMO_BACKEND=nowhere")
	if code := d.wait(t); code != 1 || !strings.Contains(d.out.String(), "the log of the server") {
		t.Fatalf("exit code %d\n%s", code, &d.out)
	}
}

func TestDemoInterrupted(t *testing.T) {
	requireBackends(t, "local")
	for name, signal := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			d := startDemo(t, "DEMO_BACKEND=local")
			d.await(t, "== Look up my account")
			if err := d.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if code := d.wait(t); code != 128+int(signal) {
				t.Fatalf("exit code %d\n%s", code, &d.out)
			}
		})
	}
}

// demo is a run of demo.sh.
type demo struct {
	cmd    *exec.Cmd
	runner string
	output *os.File // both outputs; read by lines
	lines  *bufio.Reader
	out    bytes.Buffer // what was read
}

func startDemo(t *testing.T, env ...string) *demo {
	t.Helper()
	for _, program := range []string{"bash", "curl", "go"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is missing", program)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	// A link of this run's own, by which its processes are known.
	runner := filepath.Join(t.TempDir(), "claude-runner")
	if err := os.Symlink(runnerBinary(t), runner); err != nil {
		t.Fatal(err)
	}
	d := &demo{cmd: exec.CommandContext(ctx, "support-agent/demo.sh"), runner: runner}
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(syscall.SIGTERM) }
	d.cmd.WaitDelay = 20 * time.Second
	d.cmd.Env = append(hostEnvironment(), "PATH="+os.Getenv("PATH"), "DEMO_RUNNER="+runner, "DEMO_CLI="+clitest.Path(t))
	d.cmd.Env = append(d.cmd.Env, env...)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	t.Cleanup(func() { read.Close() })
	d.output, d.lines = read, bufio.NewReader(io.TeeReader(read, &d.out))
	d.cmd.Stdout, d.cmd.Stderr = write, write
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return d
}

// await reads the output until a line has text in it.
func (d *demo) await(t *testing.T, text string) {
	t.Helper()
	for {
		line, err := d.lines.ReadString('\n')
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("the output ends without %q: %v\n%s", text, err, &d.out)
		}
	}
}

// wait reads the output to its end, which comes when the last process that
// holds it has ended, and returns the exit code. However the demo ended,
// nothing of it may be left.
func (d *demo) wait(t *testing.T) int {
	t.Helper()
	if _, err := io.Copy(io.Discard, d.lines); err != nil {
		t.Error(err)
	}
	_ = d.cmd.Wait() // the exit code says it
	d.checkGone(t)
	return d.cmd.ProcessState.ExitCode()
}

// checkGone holds the demo to its promise that nothing stays.
func (d *demo) checkGone(t *testing.T) {
	t.Helper()
	m := regexp.MustCompile(`Everything is in (\S+) until`).FindStringSubmatch(d.out.String())
	if m == nil {
		t.Fatalf("the folder is not told:\n%s", &d.out)
	}
	if _, err := os.Lstat(m[1]); !os.IsNotExist(err) {
		t.Errorf("the folder %s: %v", m[1], err)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range commands { // none but on Linux
		command, err := os.ReadFile(file)
		if err == nil && (bytes.Contains(command, []byte(m[1])) || bytes.Contains(command, []byte(d.runner))) {
			t.Errorf("%s still runs: %q", filepath.Dir(file), command)
		}
	}
}
