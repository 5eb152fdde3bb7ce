package gateway_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/agent/clitest"
	"claude-runner/agent/gateway"
	"claude-runner/agent/scripted"
	"claude-runner/backends"
)

// The real CLI calls a tool, with the socket as its only way to a model. The
// tool, and the upstream, show that the real key is nowhere in the sandbox.
func TestCLI(t *testing.T) {
	server, url := upstream(t, `
rules:
  - match: {tool_results: 0}
    answer: [{tool_use: Bash, input: {command: "env; echo $((6*7))", description: Look}}]
    usage: {input_tokens: 900, output_tokens: 30}
  - answer: [{text: "It printed: {{.LastToolResult}}"}]
    usage: {input_tokens: 1100, output_tokens: 20}`, scripted.Options{})
	home := clitest.Dir(t)
	l := lease(t, url)
	l.Socket = filepath.Join(home, "gateway.sock")
	if os.Geteuid() == 0 {
		l.Owner = backends.User{UID: clitest.UnprivilegedID, GID: clitest.UnprivilegedID}
	}
	client := start(t, t.TempDir())
	if err := client.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	cmd := clitest.Command(t.Context(), t, home, "http://model", map[string]string{
		"ANTHROPIC_UNIX_SOCKET": l.Socket, "ANTHROPIC_API_KEY": token,
	}, "-p", "--output-format", "stream-json", "--verbose", "--model", model, "--system-prompt", "Be kind.",
		"--setting-sources", "", "--strict-mcp-config", "--tools", "Bash", "--permission-mode", "bypassPermissions", "--", "look")
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), `"subtype":"success"`) || !strings.Contains(string(out), `42`) {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), key) {
		t.Error("the tool saw the real key")
	}
	s := server.Served()
	got := totals(t, client)
	if s.Calls != 2 || got.Calls != 2 || got.Usage.InputTokens != s.InputTokens || got.Usage.OutputTokens != s.OutputTokens || got.CostUSD != s.USD {
		t.Errorf("totals %+v, served %+v", got, s)
	}
}

// Over a budget the CLI ends its turn at once, without asking again.
func TestCLIOverBudget(t *testing.T) {
	server, url := upstream(t, greeting, scripted.Options{})
	home := clitest.Dir(t)
	l := lease(t, url)
	l.Socket = filepath.Join(home, "gateway.sock")
	l.Budgets = []gateway.Budget{{Name: "task:7", LimitUSD: 1, SpentUSD: 1}}
	if os.Geteuid() == 0 {
		l.Owner = backends.User{UID: clitest.UnprivilegedID, GID: clitest.UnprivilegedID}
	}
	g, _ := open(t, l, gateway.Options{})
	cmd := clitest.Command(t.Context(), t, home, "http://model", map[string]string{
		"ANTHROPIC_UNIX_SOCKET": l.Socket, "ANTHROPIC_API_KEY": token, "CLAUDE_CODE_MAX_RETRIES": "5",
	}, "-p", "--output-format", "stream-json", "--verbose", "--model", model, "--setting-sources", "", "--strict-mcp-config", "--tools", "", "--", "hi")
	out, _ := cmd.Output() // it exits with 1
	contains(t, string(out), "task:7", `"api_error_status":403`)
	if strings.Contains(string(out), "api_retry") {
		t.Errorf("it was asked again:\n%s", out)
	}
	if got := totals(t, g); got.Calls != 0 || got.Exceeded == nil || server.Served().Calls != 0 {
		t.Errorf("totals %+v", got)
	}
}
