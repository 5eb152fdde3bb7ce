package examples_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each agent answers on its own backend with its own model and tools, all at
// once.
func TestMultiAgent(t *testing.T) {
	requireBackends(t, "docker", "podman", "local")
	server := startRunner(t, "multi-agent.yaml", environment(t, "multi-agent.script.yaml"))

	wants := map[string]answer{
		"support": {
			Output: map[string]any{"action": "resolve", "confidence": 1.0,
				"response": "I am AcmeApp's support on claude-sonnet-4-6, and I have a tool that looks customers up."},
			Tools: []string{"Bash"}, Model: "claude-sonnet-4-6", Backend: "docker",
		},
		"reviewer": {
			Output: map[string]any{"verdict": "approve", "findings": []any{},
				"summary": "I review code on claude-sonnet-4-6. I was given code/cart.py."},
			Tools: []string{"Glob"}, Model: "claude-sonnet-4-6", Backend: "podman",
		},
		"assistant": {
			Output: map[string]any{"response": "I am an assistant on claude-haiku-4-5-20251001, and I have written that down."},
			Tools:  []string{"Write"}, Model: "claude-haiku-4-5-20251001", Backend: "local",
		},
	}
	var all sync.WaitGroup
	for name, want := range wants {
		all.Go(func() {
			got := ask(t, server, map[string]string{"agent": name, "sessionId": "try-" + name, "message": "What are you?"})
			if got.Cost <= 0 {
				t.Errorf("%s: cost %v", name, got.Cost)
			}
			got.Cost = 0
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		})
	}
	all.Wait()
}

// The review finds the bug in the template's code, by reading it.
func TestCodeReviewer(t *testing.T) {
	requireBackends(t, "local")
	cmd := exec.Command(runnerBinary(t), "run", "--config", "code-reviewer/config.yaml", "--backend", "local", "Review the code")
	cmd.Env = environment(t, "code-reviewer/script.yaml")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &stderr, &stdout)
	}
	var got struct {
		Tools  []string
		Output struct {
			Verdict  string
			Findings []struct {
				File string
				Line int
			}
		}
	}
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	findings := got.Output.Findings
	if got.Output.Verdict != "request_changes" || len(findings) != 1 || findings[0].File != "code/cart.py" || findings[0].Line != 16 {
		t.Errorf("got %+v", got.Output)
	}
	if diff := cmp.Diff([]string{"Glob", "Read"}, withoutOutput(got.Tools)); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(stderr.String(), "code/**/*") {
		t.Errorf("the progress shows no tool:\n%s", &stderr)
	}
}

// withoutOutput leaves out the tool that carries the answer.
func withoutOutput(tools []string) []string {
	var out []string
	for _, tool := range tools {
		if tool != "StructuredOutput" {
			out = append(out, tool)
		}
	}
	return out
}
