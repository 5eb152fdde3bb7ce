package scripted_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"claude-runner/agent/clitest"
	"claude-runner/agent/scripted"
)

const schema = `{"type": "object", "required": ["action"], "properties": {
	"action": {"enum": ["reply", "escalate"]}, "message": {"type": "string"}}}`

// outcome is the CLI's result message.
type outcome struct {
	Subtype    string          `json:"subtype"`
	IsError    bool            `json:"is_error"`
	Status     int             `json:"api_error_status"`
	Turns      int             `json:"num_turns"`
	Result     string          `json:"result"`
	Structured json.RawMessage `json:"structured_output"`
	USD        float64         `json:"total_cost_usd"`
	Usage      struct {
		Input  int64 `json:"input_tokens"`
		Output int64 `json:"output_tokens"`
	} `json:"usage"`
}

// TestCLI has the real CLI ask each script of the library.
func TestCLI(t *testing.T) {
	for _, tt := range []struct {
		name    string // the test's; the script's, where script is empty
		script  string
		prompt  string
		args    []string
		env     map[string]string
		want    func(outcome) bool
		printed string // in the CLI's messages
		calls   int    // requests that the server got
	}{
		{name: "hello", prompt: "good day", calls: 1,
			want: func(o outcome) bool { return !o.IsError && o.Result == "Hello. You said: good day" }},
		{name: "tool-use", prompt: "run: echo $((6*7))", calls: 2, printed: `"name":"Bash"`,
			want: func(o outcome) bool { return !o.IsError && o.Result == "It printed: 42" && o.Turns == 2 }},
		{name: "thinking", prompt: "why?", calls: 1, printed: `"thinking":"The user said \"why?\".`,
			want: func(o outcome) bool { return !o.IsError && o.Result == "I thought about it: why?" }},
		{name: "structured", prompt: "say it", args: []string{"--json-schema", schema}, calls: 1,
			want: func(o outcome) bool {
				return !o.IsError && string(o.Structured) == `{"action":"reply","message":"say it"}`
			}},
		{name: "structured-invalid", prompt: "say it", args: []string{"--json-schema", schema}, calls: 2,
			printed: "Output does not match required schema",
			want:    func(o outcome) bool { return !o.IsError && strings.Contains(string(o.Structured), "mended") }},
		{name: "structured-missing", prompt: "say it", args: []string{"--json-schema", schema}, calls: 2,
			want: func(o outcome) bool { return o.Structured == nil && o.Result == "I would rather talk." }},
		{name: "error-401", prompt: "hi", calls: 1, want: failedWith(401)},
		{name: "error-429", prompt: "hi", calls: 1, want: failedWith(429)},
		{name: "error-500", prompt: "hi", calls: 1, want: failedWith(500)},
		{name: "error-529", prompt: "hi", calls: 1, want: failedWith(529)},
		{name: "error-once", prompt: "hi", env: map[string]string{"CLAUDE_CODE_MAX_RETRIES": "1"}, calls: 2,
			printed: "api_retry",
			want:    func(o outcome) bool { return !o.IsError && o.Result == "I am well again." }},
		{name: "cut", prompt: "hi", calls: 2, // the second without streaming, and cut too
			want: func(o outcome) bool { return o.IsError && strings.Contains(o.Result, "ECONNRESET") }},
		{name: "malformed", prompt: "hi", calls: 2,
			want: func(o outcome) bool { return !o.IsError && o.Result == "This answer is whole." }},
		{name: "no headers", script: "hang-headers", prompt: "hi", calls: 1,
			env:  map[string]string{"API_TIMEOUT_MS": "1000"},
			want: func(o outcome) bool { return o.IsError && strings.Contains(o.Result, "timed out") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			name := tt.script
			if name == "" {
				name = tt.name
			}
			server, url := start(t, builtin(t, name), scripted.Options{})
			got, printed := oneShot(t, clitest.Dir(t), url, tt.env, tt.prompt, tt.args...)
			if !tt.want(got) {
				t.Errorf("result %+v", got)
			}
			if !strings.Contains(printed, tt.printed) {
				t.Errorf("the CLI did not print %q", tt.printed)
			}
			if n := len(server.Requests()); n != tt.calls {
				t.Errorf("%d model requests, want %d", n, tt.calls)
			}
			if t.Failed() {
				t.Logf("the CLI printed\n%s", printed)
			}
		})
	}
}

func failedWith(status int) func(outcome) bool {
	return func(o outcome) bool { return o.IsError && o.Status == status }
}

func TestCLIStreamErrorIsAskedAgainWithoutStreaming(t *testing.T) {
	for name, breakage := range map[string]string{"error event": "error: {at: 1}", "early end": "fault: {kind: end, at: 1}"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, url := start(t, parse(t, `
rules:
  - match: {stream: true}
    answer: [{text: "void void", chunk: 4}]
    `+breakage+`
  - answer: [{text: whole}]`), scripted.Options{})
			got, printed := oneShot(t, clitest.Dir(t), url, nil, "hi")
			if got.IsError || got.Result != "whole" || len(server.Requests()) != 2 {
				t.Errorf("result %+v, %d requests\n%s", got, len(server.Requests()), printed)
			}
		})
	}
}

// The CLI's own reckoning and the server's agree.
func TestCLIAccounting(t *testing.T) {
	server, url := start(t, builtin(t, "tool-use"), scripted.Options{
		Prices: map[string]scripted.Price{"claude-sonnet-4-6": {Input: 3, Output: 15}},
	})
	got, _ := oneShot(t, clitest.Dir(t), url, nil, "run: true")
	served := server.Served()
	if served.Calls != 2 || served.InputTokens != got.Usage.Input || served.OutputTokens != got.Usage.Output ||
		math.Abs(served.USD-got.USD) > 1e-9 || got.USD == 0 {
		t.Errorf("served %+v, the CLI says %+v", served, got)
	}
}

func TestCLIRemembersAcrossProcesses(t *testing.T) {
	server, url := start(t, builtin(t, "memory"), scripted.Options{})
	home := clitest.Dir(t)
	const session = "7d8f7bb0-1f9e-4a3e-9b1c-5b8f0e6a2c11"
	first, _ := oneShot(t, home, url, nil, "the colour is green", "--session-id", session)
	second, printed := oneShot(t, home, url, nil, "which colour?", "--resume", session)
	if first.IsError || second.Result != "In turn 2 I still know: the colour is green" {
		t.Errorf("first %+v\nsecond %+v\n%s", first, second, printed)
	}
	for _, r := range server.Requests() {
		if r.Conversation != session {
			t.Errorf("a request of conversation %q, want the CLI's session", r.Conversation)
		}
	}
}

// An interrupted tool call and the marks that it leaves are not the user's words.
func TestCLIInterrupted(t *testing.T) {
	_, url := start(t, parse(t, `
rules:
  - match: {message: wait, tool_results: 0}
    answer: [{tool_use: Bash, input: {command: sleep 60, description: Wait}}]
  - match: {message: '/^go on$/', earlier_turns: 1}
    answer: [{text: "Turn {{.Turn}}: {{.Message}}"}]`), scripted.Options{})
	cmd := command(t.Context(), t, clitest.Dir(t), url, nil, "--input-format", "stream-json")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	say := func(line string) {
		if _, err := io.WriteString(stdin, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	say(`{"type":"user","message":{"role":"user","content":"wait"}}`)
	next(t, lines, `"tool_use"`)
	say(`{"type":"control_request","request_id":"r1","request":{"subtype":"interrupt"}}`)
	next(t, lines, `"type":"result"`)
	say(`{"type":"user","message":{"role":"user","content":"go on"}}`)
	var got outcome
	if err := json.Unmarshal([]byte(next(t, lines, `"type":"result"`)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Result != "Turn 2: go on" {
		t.Errorf("result %+v", got)
	}
	_ = stdin.Close()
	_, _ = io.Copy(io.Discard, lines)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// A CLI that is killed while the model is silent is a client that has left.
func TestCLIKilledDuringHang(t *testing.T) {
	asked := make(chan struct{}, 1)
	server, url := start(t, builtin(t, "hang"), scripted.Options{OnRequest: func(scripted.Request) { asked <- struct{}{} }})
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	cmd := command(ctx, t, clitest.Dir(t), url, nil, "hi")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	kill()
	_ = cmd.Wait()
	waitFor(t, func() bool { return server.Served().Broken == 1 })
}

// oneShot runs the CLI for one prompt and returns its result and all it printed.
func oneShot(t *testing.T, home, url string, env map[string]string, prompt string, args ...string) (outcome, string) {
	t.Helper()
	cmd := command(t.Context(), t, home, url, env, append(args, "--", prompt)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output() // it exits with 1 where the result is an error
	for line := range bytes.Lines(out) {
		var kind struct{ Type string }
		if json.Unmarshal(line, &kind) == nil && kind.Type == "result" {
			var got outcome
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatal(err)
			}
			return got, string(out)
		}
	}
	t.Fatalf("the CLI gave no result: %v\n%s\n%s", err, out, stderr.Bytes())
	return outcome{}, ""
}

// command is the CLI with few tools and nothing of a user's settings. It is
// interrupted when ctx ends, and then killed.
func command(ctx context.Context, t *testing.T, home, url string, env map[string]string, args ...string) *exec.Cmd {
	cmd := clitest.Command(ctx, t, home, url, env, append([]string{
		"-p", "--output-format", "stream-json", "--verbose", "--model", "claude-sonnet-4-6", "--system-prompt", "Be kind.",
		"--setting-sources", "", "--strict-mcp-config", "--tools", "Bash", "--permission-mode", "bypassPermissions",
	}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// next reads to the line that has want in it.
func next(t *testing.T, lines *bufio.Reader, want string) string {
	t.Helper()
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%v before %s", err, want)
		}
		if strings.Contains(line, want) {
			return line
		}
	}
}
