package nothing_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/agent/claude"
	"claude-runner/agent/nothing"
)

const conversationID = "7d9e5c1e-6a3f-4a55-9a1c-0d5f3c0f8a11"

// TestTurns: the CLI's driver gets whole turns out of the agent, which cost
// nothing.
func TestTurns(t *testing.T) {
	conv, wait := start(t)
	for range 3 {
		var events []agent.EventType
		result, err := conv.Turn(t.Context(), agent.Turn{Message: "hello"}, func(e agent.Event) { events = append(events, e.Type) })
		if err != nil {
			t.Fatal(err)
		}
		result.Duration = 0
		want := agent.Result{Text: nothing.Answer, AgentID: conversationID, Model: "claude-sonnet-4-6"}
		if diff := cmp.Diff(want, result); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]agent.EventType{agent.EventInit, agent.EventText}, events); diff != "" {
			t.Error(diff)
		}
		if !conv.Alive() {
			t.Error("the agent takes no other turn")
		}
	}
	if err := conv.Close(t.Context()); err != nil {
		t.Error(err)
	}
	wait()
}

// TestResume: a conversation that is gone on with keeps its name.
func TestResume(t *testing.T) {
	for _, resume := range []string{conversationID, "/home/.claude/projects/x/" + conversationID + ".jsonl"} {
		out := run(t, "{\"type\":\"user\",\"message\":{}}\n", "--resume", resume)
		if !strings.Contains(out, `"session_id":"`+conversationID+`"`) {
			t.Errorf("--resume %s: %s", resume, out)
		}
	}
}

// TestControlRequests: each is answered, by its id.
func TestControlRequests(t *testing.T) {
	out := run(t, `{"type":"control_request","request_id":"a","request":{"subtype":"initialize"}}
{"type":"control_request","request_id":"b","request":{"subtype":"interrupt"}}
{"type":"control_request","request_id":"c","request":{"subtype":"set_model"}}
`)
	want := `{"response":{"request_id":"a","subtype":"success"},"type":"control_response"}
{"response":{"request_id":"b","subtype":"success"},"type":"control_response"}
{"response":{"error":"not supported: set_model","request_id":"c","subtype":"error"},"type":"control_response"}
`
	if diff := cmp.Diff(want, out); diff != "" {
		t.Error(diff)
	}
}

// TestOtherWords: what is no message ends the agent, as it does the CLI.
func TestOtherWords(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), program(t))
	cmd.Stdin = strings.NewReader("what?\n")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), nothing.Name) {
		t.Errorf("%v: %s", err, out)
	}
}

func program(t *testing.T) string {
	t.Helper()
	path, err := nothing.Install(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// run gives an agent its whole input, and returns its output.
func run(t *testing.T, input string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t), args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// start starts an agent as the CLI's driver says. wait holds that it ended well.
func start(t *testing.T) (conv agent.Conversation, wait func()) {
	t.Helper()
	driver := claude.New(claude.Options{Program: program(t)})
	home := t.TempDir()
	launch := agent.Launch{
		Profile: agent.Profile{PermissionMode: "bypassPermissions"}, Model: "claude-sonnet-4-6", NewID: conversationID,
		Home: agent.Folder{Host: home, Sandbox: home},
	}
	command, err := driver.Command(launch)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), command.Argv[0], command.Argv[1:]...)
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
	return driver.Open(launch, stdin, stdout), func() {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}
