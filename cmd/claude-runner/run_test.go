package main

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"claude-runner/agent/scripted"
)

// runHere are the arguments of run with testConfig.
func runHere(more ...string) []string {
	return append([]string{"run", "--config", testConfig, "--set", "log.level=warn"}, more...)
}

// TestRun holds that run does a task by itself: what happens on stderr, the
// answer alone on stdout, and an exit code that says how it ended.
func TestRun(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	env := variables(t, "local", url)
	setenv(t, env)
	requireAgent(t, startProgram(t, loadConfig(t, testConfig, with(env, "DATA_DIR", t.TempDir()))), "local")

	o := command(t.Context(), "", runHere("--session", "s", "show everything")...)
	var first task
	if err := json.Unmarshal([]byte(o.stdout), &first); err != nil || o.code != 0 {
		t.Fatalf("code %d, %v\n%s%s", o.code, err, o.stderr, o.stdout)
	}
	if first.Text != "The tool said: from the tool" || first.Status != "succeeded" || first.Resumed {
		t.Errorf("the answer: %s", o.stdout)
	}
	var at []int
	for _, want := range []string{"claude-sonnet-4-6 on local", "(thinking) They want to see", "I look around.", "→ Bash echo from the tool", "← from the tool", "The tool said: from the tool\n", "done"} {
		at = append(at, strings.Index(o.stderr, want))
	}
	if slices.Contains(at, -1) || !slices.IsSorted(at) {
		t.Errorf("the progress, parts at %v:\n%s", at, o.stderr)
	}

	o = command(t.Context(), "run: echo \"$COLOUR\"", runHere("--session", "s", "--quiet", "--env", "COLOUR=green", "--context", "Channel: terminal", "-")...)
	var second task
	if err := json.Unmarshal([]byte(o.stdout), &second); err != nil || second.Text != "green" || !second.Resumed || o.stderr != "" {
		t.Errorf("code %d, %v\n%s%s", o.code, err, o.stderr, o.stdout)
	}

	for _, tt := range []struct {
		name, message string
		args          []string
		code          int
		want          string
	}{
		{"failed", "fail 400", nil, exitFailed, "model_rejected"},
		{"timed out", "run: sleep 1000", []string{"--agent", "brief"}, exitTimedOut, "timed_out"},
		{"no such agent", "say: hi", []string{"--agent", "nobody"}, exitUsage, "agent_not_found"},
		{"bad session", "say: hi", []string{"--session", "../x"}, exitUsage, "sessionId"},
		{"blank message", " ", nil, exitUsage, "message"},
		{"bad setting", "say: hi", []string{"--set", "limits.boots=many"}, exitUsage, "limits.boots"},
		{"no server", "say: hi", []string{"--server", "http://127.0.0.1:1"}, exitFailed, "is the server at http://127.0.0.1:1 running?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := command(t.Context(), "", runHere(append(tt.args, tt.message)...)...)
			if o.code != tt.code || !strings.Contains(o.stdout+o.stderr, tt.want) || strings.Contains(o.stdout+o.stderr, modelKey) {
				t.Errorf("code %d, want %d and %q\n%s%s", o.code, tt.code, tt.want, o.stderr, o.stdout)
			}
			if !strings.HasPrefix(o.stdout, "{") && o.stdout != "" {
				t.Errorf("stdout is no JSON: %s", o.stdout)
			}
		})
	}
}

// TestRunOnServer holds that run gives its task to a server that runs.
func TestRunOnServer(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	p := startProgram(t, loadConfig(t, testConfig, variables(t, "local", url)))
	requireAgent(t, p, "local")
	o := command(t.Context(), "", "run", "--server", p.base, "--session", "mine", "say: hello")
	if o.code != 0 || !strings.Contains(o.stdout, `"text": "hello"`) || !strings.Contains(o.stderr, "hello") {
		t.Fatalf("%+v", o)
	}
	var d details
	if p.get(t, "/session/mine", &d); d.Turns != 1 {
		t.Errorf("the server's session: %+v", d)
	}
}

// TestRunInterrupted holds that SIGINT aborts the task, wherever it runs.
func TestRunInterrupted(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	env := variables(t, "local", url)
	p := startProgram(t, loadConfig(t, testConfig, with(env, "DATA_DIR", t.TempDir())))
	requireAgent(t, p, "local")
	setenv(t, env)
	for name, args := range map[string][]string{"by itself": runHere(), "on a server": {"run", "--server", p.base}} {
		t.Run(name, func(t *testing.T) {
			number := unique()
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			var stdout bytes.Buffer
			stderr := &trigger{on: "→ Bash", do: interrupt}
			root := rootCommand()
			root.SetArgs(append(args, "run: sleep "+number))
			root.SetOut(&stdout)
			root.SetErr(stderr)
			if code := exitCode(root, root.ExecuteContext(ctx)); code != exitAborted {
				t.Errorf("code %d, want %d", code, exitAborted)
			}
			if !strings.Contains(stdout.String(), `"code": "aborted"`) {
				t.Errorf("stdout:\n%s\nstderr:\n%s", &stdout, stderr)
			}
			eventually(t, waitLong, "the tool is gone", func() bool { return len(processes(t, "sleep "+number)) == 0 })
		})
	}
}

// trigger is a writer that does something once a text is written.
type trigger struct {
	logs
	on string
	do func()
}

func (w *trigger) Write(p []byte) (int, error) {
	n, err := w.logs.Write(p)
	if strings.Contains(w.String(), w.on) {
		w.do()
	}
	return n, err
}
