package examples_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"claude-runner/agent/clitest"
	"claude-runner/agent/scripted"
	"claude-runner/backends/backendtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if built.dir != "" {
			_ = os.RemoveAll(built.dir)
		}
		os.Exit(code)
	}))
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// runnerBinary builds the program, once for all tests.
func runnerBinary(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "examples-bin-"); built.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", built.dir, "../cmd/claude-runner")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			built.err = errors.New(string(out))
		}
	})
	if built.err != nil {
		t.Fatalf("go build: %v", built.err)
	}
	return filepath.Join(built.dir, "claude-runner")
}

// environment is what the runner is started with: nothing that would lead it
// to a real model, the real CLI in PATH, a data folder of the test's own, and
// script in the model's place where there is one.
func environment(t *testing.T, script string) []string {
	t.Helper()
	dir := publicDir(t)
	if err := os.Symlink(clitest.Path(t), filepath.Join(dir, "claude")); err != nil {
		t.Fatal(err)
	}
	env := append(hostEnvironment(), "PATH="+dir+":"+os.Getenv("PATH"), "ACME_API_TOKEN="+acmeToken,
		"CLAUDE_RUNNER_DATA_DIR="+filepath.Join(dir, "data"), "CLAUDE_RUNNER_SERVER__LISTEN=127.0.0.1:0")
	if script != "" {
		env = append(env, "ANTHROPIC_API_KEY=scripted", "ANTHROPIC_BASE_URL="+startScripted(t, script))
	}
	return env
}

// hostEnvironment is this process's environment without what chooses a model
// or configures a runner.
func hostEnvironment() []string {
	var env []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		switch {
		case strings.HasPrefix(name, "ANTHROPIC_"), strings.HasPrefix(name, "CLAUDE_"), strings.HasPrefix(name, "DEMO_"), name == "PATH":
		default:
			env = append(env, variable)
		}
	}
	return env
}

// publicDir returns a new folder that the sandbox's user can reach.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "examples-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startScripted serves a script, and returns its address.
func startScripted(t *testing.T, file string) string {
	t.Helper()
	script, err := scripted.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	server := scripted.New(script, scripted.Options{})
	url, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if problems := server.Problems(); len(problems) > 0 {
			t.Errorf("%s: %q", file, problems)
		}
	})
	return url
}

// requireBackends skips the test where one of the backends does not start the
// agent here, or fails it where that backend is required.
func requireBackends(t *testing.T, kinds ...string) {
	t.Helper()
	report := doctorReport(t)
	for _, kind := range kinds {
		var err error
		if !regexp.MustCompile(`(?m)^✓ backend ` + kind + `:`).MatchString(report) {
			err = errors.New(report)
		}
		backendtest.Require(t, kind, err)
	}
}

// doctorReport is what the program says of the backends here, asked once.
func doctorReport(t *testing.T) string {
	t.Helper()
	doctored.once.Do(func() {
		doctor := exec.Command(runnerBinary(t), "doctor", "--config", "multi-agent.yaml")
		doctor.Env = append(environment(t, ""), "ANTHROPIC_API_KEY=x")
		out, _ := doctor.CombinedOutput() // its exit code is of all backends
		doctored.report = string(out)
	})
	return doctored.report
}

var doctored struct {
	once   sync.Once
	report string
}

// startRunner serves a configuration, and returns the server's address.
func startRunner(t *testing.T, file string, env []string) string {
	t.Helper()
	cmd := exec.Command(runnerBinary(t), "serve", "--config", file)
	cmd.Env = env
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	lines := bufio.NewReader(io.TeeReader(stderr, &log))
	ready := regexp.MustCompile(`is ready" url=(\S+)`)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("the server ended: %v\n%s", cmd.Wait(), &log)
		}
		if m := ready.FindStringSubmatch(line); m != nil {
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				_, _ = io.Copy(io.Discard, lines)
			}()
			t.Cleanup(func() {
				_ = cmd.Process.Signal(syscall.SIGTERM)
				<-drained
				if err := cmd.Wait(); err != nil {
					t.Errorf("the server: %v", err)
				}
				if t.Failed() {
					t.Logf("the server's log:\n%s", &log)
				}
			})
			return m[1]
		}
	}
}

// answer is what the server answers to a task.
type answer struct {
	Output      map[string]any `json:"output"`
	OutputError string         `json:"output_error"`
	Error       string         `json:"error"`
	Cost        float64        `json:"cost"`
	Tools       []string       `json:"tools"`
	Model       string         `json:"model"`
	Backend     string         `json:"backend"`
}

// ask runs one task.
func ask(t *testing.T, server string, task map[string]string) answer {
	t.Helper()
	body, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Post(server+"/task", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	var a answer
	if err := errors.Join(err, json.Unmarshal(text, &a)); err != nil || response.StatusCode != http.StatusOK || a.OutputError != "" {
		t.Errorf("%v: %s: %v\n%s", task, response.Status, err, text)
	}
	return a
}
