package claude_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/agent"
	"claude-runner/agent/claude"
	"claude-runner/agent/clitest"
	"claude-runner/agent/scripted"
)

// aheadLaunch is a launch of an agent that starts before its task is known.
func aheadLaunch(t testing.TB, url string) agent.Launch {
	t.Helper()
	l := newLaunch(t, url)
	run := clitest.Dir(t)
	l.Ahead, l.Run = true, agent.Folder{Host: run, Sandbox: run}
	return l
}

// TestSetEnv has every tool that runs commands show what a booted agent was
// given: the first command, later ones, those of subagents, programs that are
// started by programs, and those of the next turn.
func TestSetEnv(t *testing.T) {
	const show = `printf '%s|%s|%s' \"$PLAIN\" \"$ODD\" \"$PROFILE\"`
	script := scripted.MustParse(`
rules:
  - match: {message: second agent, tool_results: 0}
    answer: [{tool_use: Bash, input: {command: "` + show + `", description: Show}}]
  - match: {message: second agent}
    answer: [{text: "{{.LastToolResult}}"}]
  - match: {tool_results: 0}
    answer: [{tool_use: Bash, input: {command: "` + show + `", description: Show}}]
  - match: {tool_results: 1}
    answer: [{tool_use: Bash, input: {command: "cd /tmp; sh -c 'exec env' | grep -c -e ^PLAIN=given -e ^PROFILE=task", description: Show}}]
  - match: {tool_results: 2, has_tool: Agent}
    answer: [{tool_use: Agent, input: {description: "Look", prompt: "second agent", subagent_type: "general-purpose"}}]
  - match: {tool_results: 3}
    answer: [{tool_use: Bash, input: {command: "` + show + `", description: Show}}]
  - answer: [{text: "done"}]
`)
	_, url := serve(t, script)
	l := aheadLaunch(t, url)
	l.Profile.Tools = []string{"Task", "Bash"}
	l.Env = map[string]string{"PROFILE": "profile"}
	p := start(t, l)
	env := map[string]string{"PLAIN": "given", "ODD": "it's \"$HOME\" `x` \\\nline two", "PROFILE": "task"}
	if ok, err := claude.New(claude.Options{}).SetEnv(l, env); !ok || err != nil {
		t.Fatal(ok, err)
	}
	want := env["PLAIN"] + "|" + env["ODD"] + "|" + env["PROFILE"]
	for _, message := range []string{"first turn", "next turn"} {
		got := p.must(p.say(message))
		var results []string
		for _, e := range got.of(agent.EventToolEnd) {
			results = append(results, e.Result)
		}
		said := strings.Join(results, "\n--\n")
		if strings.Count(said, want) < 2 || !strings.Contains(said, "\n--\n2") {
			t.Errorf("%s: the tools say %q, want %q", message, said, want)
		}
	}
}

func TestSetEnvNeedsAStart(t *testing.T) {
	d := claude.New(claude.Options{})
	run := t.TempDir()
	l := agent.Launch{Run: agent.Folder{Host: run, Sandbox: run}}
	for _, name := range []string{"PATH", "http_proxy", "MAX_THINKING_TOKENS", "BASH_ENV", "NODE_OPTIONS", "LD_PRELOAD"} {
		if ok, err := d.SetEnv(l, map[string]string{"A": "b", name: "x"}); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if _, err := d.SetEnv(l, map[string]string{"ANTHROPIC_API_KEY": "x"}); !errors.Is(err, agent.ErrInvalidLaunch) {
		t.Errorf("a variable of the runner's: %v", err)
	}
	l.Profile.ExtraArgs = []string{"--mcp-config", "servers.json"}
	if ok, err := d.SetEnv(l, map[string]string{"A": "b"}); ok || err != nil {
		t.Errorf("with programs of the agent's own: %v, %v", ok, err)
	}
	if ok, err := d.SetEnv(l, nil); !ok || err != nil {
		t.Errorf("without variables: %v, %v", ok, err)
	}
	if _, err := os.Lstat(filepath.Join(run, "env.sh")); err == nil {
		t.Error("a file is written all the same")
	}
}

// What is in the file's place, such as a link that an agent has left, is never
// followed.
func TestSetEnvReplaces(t *testing.T) {
	run, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	l := agent.Launch{Run: agent.Folder{Host: run, Sandbox: run}}
	if err := os.WriteFile(victim, []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(run, "env.sh")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if ok, err := claude.New(claude.Options{}).SetEnv(l, map[string]string{"A": "b"}); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if text, _ := os.ReadFile(victim); string(text) != "untouched" {
		t.Errorf("the link's file holds %q", text)
	}
	if text, _ := os.ReadFile(filepath.Join(run, "env.sh")); string(text) != "export A='b'\n" {
		t.Errorf("the file holds %q", text)
	}
}
