package scripted_test

import (
	"fmt"
	"strings"
	"testing"

	"claude-runner/agent/scripted"
)

// talk is a conversation in its second turn, with two tool results in it.
const talk = `{"model": "claude-test-1", "max_tokens": 100, "system": "You sell tea.",
 "tools": [{"name": "Bash", "input_schema": {}}, {"name": "StructuredOutput", "input_schema": {}}],
 "messages": [
  {"role": "user", "content": [
    {"type": "text", "text": "<system-reminder>\nIt is noon.\n</system-reminder>\n\n"},
    {"type": "text", "text": "My name is Ada."}]},
  {"role": "assistant", "content": [{"type": "tool_use", "id": "t0", "name": "Read", "input": {}}]},
  {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t0", "content": "old news"}]},
  {"role": "assistant", "content": "Hello Ada."},
  {"role": "user", "content": "Which teas are there?"},
  {"role": "assistant", "content": [
    {"type": "text", "text": "I look."},
    {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}},
    {"type": "tool_use", "id": "t2", "name": "Grep", "input": {}}]},
  {"role": "user", "content": [
    {"type": "tool_result", "tool_use_id": "t1", "content": "green\nblack"},
    {"type": "tool_result", "tool_use_id": "t2", "is_error": true, "content": [{"type": "text", "text": "no such"}, {"type": "text", "text": "file"}]}]}
 ]}`

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		match string
		want  bool
	}{
		{`{}`, true},
		{`{message: "Which teas"}`, true},
		{`{message: "which teas"}`, false},
		{`{message: '/(?i)WHICH (\w+)/'}`, true},
		{`{message: '/^teas/'}`, false},
		{`{message: "Ada"}`, false},
		{`{message: "/"}`, false},
		{`{system: "sell tea"}`, true},
		{`{system: "/coffee/"}`, false},
		{`{model: test-1}`, true},
		{`{model: test-2}`, false},
		{`{history: '/name is (\w+)/'}`, true},
		{`{history: "Hello Ada."}`, true},
		{`{history: "old news"}`, true},
		{`{history: "It is noon"}`, false},
		{`{history: "Which teas"}`, false},
		{`{history: "I look"}`, false},
		{`{history: "green"}`, false},
		{`{earlier_turns: 1}`, true},
		{`{earlier_turns: 0}`, false},
		{`{tool_results: 2}`, true},
		{`{tool_results: 0}`, false},
		{`{tool_result: '/^no such\nfile$/'}`, true},
		{`{tool_result: "green"}`, false},
		{`{tool_name: Grep}`, true},
		{`{tool_name: Bash}`, false},
		{`{tool_error: true}`, true},
		{`{tool_error: false}`, false},
		{`{has_tool: StructuredOutput}`, true},
		{`{has_tool: Structured}`, false},
		{`{stream: false}`, true},
		{`{stream: true}`, false},
		{`{message: teas, system: tea, tool_results: 2}`, true},
		{`{message: teas, system: coffee, tool_results: 2}`, false},
	} {
		t.Run(tt.match, func(t *testing.T) {
			script := parse(t, fmt.Sprintf("rules:\n  - match: %s\n    times: 1\n    answer: [{text: fits}]\n  - answer: [{text: does not}]", tt.match))
			_, url := start(t, script, scripted.Options{})
			if got := said(t, url, talk) == "fits"; got != tt.want {
				t.Errorf("fits: %t, want %t", got, tt.want)
			}
		})
	}
}

// Nothing has answered yet, so that no condition on a tool's answer holds.
func TestMatchWithoutToolResults(t *testing.T) {
	for _, match := range []string{`{tool_result: ""}`, `{tool_name: ""}`, `{tool_error: false}`} {
		script := parse(t, "rules:\n  - {match: "+match+", answer: [{text: fits}]}\n  - answer: [{text: does not}]")
		_, url := start(t, script, scripted.Options{})
		if got := said(t, url, question("hi")); got != "does not" {
			t.Errorf("%s fits a turn without tool results", match)
		}
	}
}

func TestTurnBeginsWithTheUsersOwnWords(t *testing.T) {
	const read = `"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "first"}, `
	for name, tt := range map[string]struct{ rest, want string }{
		"texts of one message are joined": {
			`{"role": "assistant", "content": "ok"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}`,
			"2 a\nb",
		},
		"a reminder after a tool result is no turn": {
			`{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]},
			 {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"},
			   {"type": "text", "text": "<system-reminder>mind</system-reminder>"}]}`,
			"1 first",
		},
		"words beside a reminder count": {
			`{"role": "assistant", "content": "ok"},
			 {"role": "user", "content": "<system-reminder>one</system-reminder>hi<system-reminder>two</system-reminder>"}`,
			"2 hi",
		},
		"an interrupted tool's mark is not the user's": {
			`{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]},
			 {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "is_error": true, "content": "stopped"},
			   {"type": "text", "text": "[Request interrupted by user for tool use]"}, {"type": "text", "text": "second"}]}`,
			"2 second",
		},
		"an unclosed reminder is text": {
			`{"role": "assistant", "content": "ok"}, {"role": "user", "content": "<system-reminder>what is this?"}`,
			"2 <system-reminder>what is this?",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, url := start(t, parse(t, `rules: [{answer: [{text: "{{.Turn}} {{.Message}}"}]}]`), scripted.Options{})
			if got := said(t, url, "{"+read+tt.rest+"]}"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFirstRuleThatFitsAnswers(t *testing.T) {
	_, url := start(t, parse(t, `
rules:
  - {match: {message: a}, answer: [{text: one}]}
  - {match: {message: ab}, answer: [{text: two}]}
  - {answer: [{text: three}]}`), scripted.Options{})
	for message, want := range map[string]string{"ab": "one", "b": "three"} {
		if got := said(t, url, question(message)); got != want {
			t.Errorf("%s: got %q, want %q", message, got, want)
		}
	}
}

func TestTimesPerConversation(t *testing.T) {
	_, url := start(t, parse(t, `
rules:
  - {times: 2, answer: [{text: early}]}
  - {answer: [{text: late}]}`), scripted.Options{})
	session := func(id string) map[string]any {
		user := fmt.Sprintf(`{"device_id":"d","session_id":%q}`, id)
		return with(question("hi"), "metadata", map[string]any{"user_id": user})
	}
	var got []string
	for _, body := range []map[string]any{
		session("s1"), session("s2"), session("s1"), session("s1"), session("s2"),
		with(question("hi"), "metadata", map[string]any{"user_id": "plain"}),
		question("hi"), question("ho"), question("hi"), question("hi"),
	} {
		got = append(got, said(t, url, body))
	}
	want := "early early early late early early early early early late"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
}

func TestTimesPerServer(t *testing.T) {
	_, url := start(t, parse(t, `
rules:
  - {times: 2, per: server, answer: [{text: early}]}
  - {answer: [{text: late}]}`), scripted.Options{})
	var got []string
	for _, message := range []string{"a", "b", "c"} {
		got = append(got, said(t, url, question(message)))
	}
	if want := "early early late"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %s", got, want)
	}
}

func TestTemplatesSeeTheConversation(t *testing.T) {
	for text, want := range map[string]string{
		`{{.Match 1}}`:                            "teas",
		`{{.HistoryMatch 1}}`:                     "Ada",
		`{{.ResultMatch 0}}`:                      "no such",
		`{{.SystemMatch 1}}`:                      "tea",
		`{{.LastTool}} {{.LastToolResult}}`:       "Grep no such\nfile",
		`{{(index .ToolResults 0).Text}}`:         "green\nblack",
		`{{json .Earlier}} {{.Turn}}`:             `["My name is Ada."] 2`,
		`{{trim " a "}}{{.Model}}`:                "aclaude-test-1",
		`{{(parse "{\"a\": [1, 2]}").a}}`:         "[1 2]",
		`{{json "<&>"}}`:                          `"<&>"`,
		`{{range .ToolResults}}{{.Tool}},{{end}}`: "Bash,Grep,",
		`{{.History}}`:                            "My name is Ada.\nold news\nHello Ada.",
	} {
		t.Run(text, func(t *testing.T) {
			_, url := start(t, parse(t, `
rules:
  - match: {message: '/Which (\w+)/', history: '/name is (\w+)/', tool_result: no such, system: '/sell (\w+)/'}
    answer:
      - text: `+"'"+text+"'"), scripted.Options{})
			if got := said(t, url, talk); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
