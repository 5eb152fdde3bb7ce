package claude_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/agent/scripted"
)

func TestTurnAnswers(t *testing.T) {
	server, url := serve(t, builtin(t, "hello"))
	l := newLaunch(t, url)
	p := start(t, l)
	got := p.must(p.say("good morning"))
	if got.Text != "Hello. You said: good morning" || got.texts(agent.EventText) != got.Text {
		t.Errorf("text %q, events %q", got.Text, got.texts(agent.EventText))
	}
	if got.AgentID != l.NewID || got.Model != l.Model || got.Turns != 1 || got.Duration <= 0 || len(got.Tools) != 0 {
		t.Errorf("result %+v", got.Result)
	}
	init := got.of(agent.EventInit)
	if len(init) != 1 || got.events[0].Type != agent.EventInit || init[0].AgentID != l.NewID || init[0].Model != l.Model {
		t.Errorf("init %+v", init)
	}
	if diff := cmp.Diff([]string{"Bash", "Edit", "Read", "Write"}, init[0].Tools); diff != "" {
		t.Errorf("tools: %s", diff)
	}
	served := server.Served()
	want := agent.Usage{
		InputTokens: served.InputTokens, OutputTokens: served.OutputTokens,
		CacheReadInputTokens: served.CacheReadTokens, CacheCreationInputTokens: served.CacheCreationTokens,
	}
	if got.Usage != want || got.CostUSD <= 0 {
		t.Errorf("usage %+v for %g dollars, served %+v", got.Usage, got.CostUSD, want)
	}
	if usage := got.of(agent.EventUsage); len(usage) != 1 || *usage[0].Usage != want {
		t.Errorf("usage events %+v", usage)
	}
	request := server.Requests()[0]
	if !strings.HasSuffix(strings.TrimSpace(request.View.System), "You are a test.") || request.View.Message != "good morning" || !request.Stream {
		t.Errorf("request %+v", request.View)
	}
}

func TestTurnGivesContextBeforeTheMessage(t *testing.T) {
	server, url := serve(t, builtin(t, "hello"))
	p := start(t, newLaunch(t, url))
	p.must(p.sayIn(t.Context(), agent.Turn{Message: "hello", Context: "Channel: web-chat\n"}, nil))
	if got, want := server.Requests()[0].View.Message, "<context>\nChannel: web-chat\n</context>\n\nhello"; got != want {
		t.Errorf("the model was told %q, want %q", got, want)
	}
}

func TestTurnPassesOnAnyText(t *testing.T) {
	server, url := serve(t, builtin(t, "hello"))
	p := start(t, newLaunch(t, url))
	for _, c := range []struct{ message, want string }{
		{"/nosuchcommand do it", "/nosuchcommand do it"},
		{"/clear", "/clear"},
		{"/", "/"},
		{"a\xffb\x00c", "a\ufffdb\ufffdc"},
		{"{\"type\":\"user\"}\n{broken", "{\"type\":\"user\"}\n{broken"},
		{"a\u2028b\u0085c", "a\u2028b\u0085c"},
		{strings.Repeat("long ", 100_000) + "end", strings.Repeat("long ", 100_000) + "end"},
	} {
		before := len(server.Requests())
		got := p.must(p.say(c.message))
		requests := server.Requests()
		if len(requests) != before+1 || strings.TrimSpace(requests[before].View.Message) != c.want {
			t.Errorf("%.40q: %d requests, the last with %.60q", c.message, len(requests)-before, requests[len(requests)-1].View.Message)
		}
		if !strings.HasPrefix(got.Text, "Hello. You said:") {
			t.Errorf("%.40q: text %.60q", c.message, got.Text)
		}
	}
	for _, message := range []string{"", " \n\t"} {
		if got := p.say(message); !errors.Is(got.err, agent.ErrEmptyMessage) {
			t.Errorf("%q: %v", message, got.err)
		}
	}
}

func TestTurnRunsTools(t *testing.T) {
	_, url := serve(t, builtin(t, "tool-use"))
	l := newLaunch(t, url)
	p := start(t, l)
	got := p.must(p.say("run: echo a > made.txt; printf '{\"b\": %d}' 2"))
	if want := `It printed: {"b": 2}`; got.Text != want {
		t.Errorf("text %q, want %q", got.Text, want)
	}
	if diff := cmp.Diff([]string{"Bash"}, got.Tools); diff != "" || got.Turns != 2 {
		t.Errorf("%d turns, tools: %s", got.Turns, diff)
	}
	begin, end := got.of(agent.EventToolStart), got.of(agent.EventToolEnd)
	if len(begin) != 1 || len(end) != 1 {
		t.Fatalf("%+v, %+v", begin, end)
	}
	var input struct{ Command string }
	if err := json.Unmarshal(begin[0].Input, &input); err != nil || !strings.HasPrefix(input.Command, "echo a > made.txt") {
		t.Errorf("input %s", begin[0].Input)
	}
	want := agent.Event{Type: agent.EventToolEnd, Tool: "Bash", ToolID: begin[0].ToolID, Result: `{"b": 2}`}
	if diff := cmp.Diff(want, end[0]); diff != "" || begin[0].ToolID == "" {
		t.Error(diff)
	}
	if text, err := os.ReadFile(filepath.Join(l.Workspace.Host, "made.txt")); string(text) != "a\n" {
		t.Errorf("made.txt %q, %v", text, err)
	}
	failed := p.must(p.say("run: echo oh no; exit 3"))
	if end := failed.of(agent.EventToolEnd); len(end) != 1 || !end[0].IsError || !strings.Contains(end[0].Result, "oh no") {
		t.Errorf("failed tool %+v", end)
	}
}

func TestTurnThinks(t *testing.T) {
	_, url := serve(t, builtin(t, "thinking"))
	p := start(t, newLaunch(t, url))
	got := p.must(p.say("why"))
	if thought := got.texts(agent.EventThinking); thought != `The user said "why". A short answer will do.` {
		t.Errorf("thought %q", thought)
	}
	if got.Text != "I thought about it: why" || got.texts(agent.EventText) != got.Text {
		t.Errorf("text %q", got.Text)
	}
}

func TestTurnsOfOneProcessCountOnlyTheirOwn(t *testing.T) {
	_, url := serve(t, builtin(t, "memory"))
	p := start(t, newLaunch(t, url))
	first := p.must(p.say("the code is 4711"))
	if !p.Alive() {
		t.Fatal("the process is not alive after a turn")
	}
	second := p.must(p.say("what was it?"))
	if second.Text != "In turn 2 I still know: the code is 4711" {
		t.Errorf("text %q", second.Text)
	}
	if first.AgentID != second.AgentID {
		t.Errorf("ids %s and %s", first.AgentID, second.AgentID)
	}
	sameAsEvents(t, first)
	sameAsEvents(t, second)
	if first.CostUSD <= 0 || second.CostUSD <= 0 || second.CostUSD > 3*first.CostUSD {
		t.Errorf("costs %g and %g", first.CostUSD, second.CostUSD)
	}
}

// sameAsEvents checks a result's usage against its usage events.
func sameAsEvents(t *testing.T, got turn) {
	t.Helper()
	var sum agent.Usage
	for _, e := range got.of(agent.EventUsage) {
		sum.InputTokens += e.Usage.InputTokens
		sum.OutputTokens += e.Usage.OutputTokens
		sum.CacheReadInputTokens += e.Usage.CacheReadInputTokens
		sum.CacheCreationInputTokens += e.Usage.CacheCreationInputTokens
	}
	if got.Usage != sum {
		t.Errorf("usage %+v, events %+v", got.Usage, sum)
	}
}

func TestResume(t *testing.T) {
	_, url := serve(t, builtin(t, "memory"))
	l := newLaunch(t, url)
	p := start(t, l)
	first := p.must(p.say("the code is 4711"))
	p.end()

	l.Resume, l.NewID = first.AgentID, ""
	p = start(t, l)
	for _, want := range []string{"In turn 2 I still know: the code is 4711", "In turn 3 I still know: the code is 4711"} {
		got := p.must(p.say("what was it?"))
		if got.Text != want || got.AgentID != first.AgentID {
			t.Errorf("%q of %s, want %q", got.Text, got.AgentID, want)
		}
		sameAsEvents(t, got)
		if got.CostUSD <= 0 || got.CostUSD > 3*first.CostUSD {
			t.Errorf("%q cost %g, the first turn %g", got.Text, got.CostUSD, first.CostUSD)
		}
	}
}

// A session may go on in another sandbox, whose working folder has another path.
func TestResumeInAnotherFolder(t *testing.T) {
	_, url := serve(t, builtin(t, "memory"))
	l := newLaunch(t, url)
	p := start(t, l)
	l.Resume = p.must(p.say("the code is 4711")).AgentID
	p.end()
	for _, want := range []string{"In turn 2", "In turn 3", "In turn 4"} {
		other := newLaunch(t, url)
		l.Workspace = other.Workspace
		p := start(t, l)
		got := p.must(p.say("what was it?"))
		if got.Text != want+" I still know: the code is 4711" {
			t.Errorf("text %q, want %s", got.Text, want)
		}
		p.end()
	}
	// And back again, and by a HOME that was moved itself.
	home := newLaunch(t, url).Home
	if err := os.RemoveAll(home.Host); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(l.Home.Host, home.Host); err != nil {
		t.Fatal(err)
	}
	l.Home = home
	p = start(t, l)
	if got := p.must(p.say("what was it?")); !strings.HasPrefix(got.Text, "In turn 5") {
		t.Errorf("text %q", got.Text)
	}
}

func TestResumeOfNothing(t *testing.T) {
	_, url := serve(t, builtin(t, "memory"))
	l := newLaunch(t, url)
	l.Resume = l.NewID
	p := start(t, l)
	got := p.say("what was it?")
	if got.code() != agent.CodeMemoryLost {
		t.Errorf("error %v, code %q", got.err, got.code())
	}
}

func TestTurnGivesStructuredOutput(t *testing.T) {
	template := &agent.Template{System: "You are a test.", Schema: json.RawMessage(`{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "x-version": 2,
		"properties": {"action": {"enum": ["reply", "close"]}, "message": {"type": "string", "format": "email"}},
		"required": ["action", "message"], "unevaluatedProperties": false}`)}
	for script, c := range map[string]struct{ output, problem string }{
		"structured":         {`{"action": "reply", "message": "hello"}`, ""},
		"structured-invalid": {`{"action": "reply", "message": "mended"}`, ""},
		"structured-missing": {"", "the agent gave no structured output"},
	} {
		t.Run(script, func(t *testing.T) {
			_, url := serve(t, builtin(t, script))
			l := newLaunch(t, url)
			l.Template = template
			p := start(t, l)
			got := p.must(p.say("hello"))
			output, err := template.ParseOutput(got.Result)
			if c.problem == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), c.problem) {
				t.Errorf("error %v, want %q", err, c.problem)
			}
			if c.output != "" {
				var want, have any
				_, _ = json.Unmarshal([]byte(c.output), &want), json.Unmarshal(output, &have)
				if diff := cmp.Diff(want, have); diff != "" {
					t.Error(diff)
				}
			}
			if len(got.Tools) != 0 || len(got.of(agent.EventToolStart))+len(got.of(agent.EventToolEnd)) != 0 {
				t.Errorf("the output is shown as a tool's: %+v", got)
			}
			if init := got.of(agent.EventInit); len(init) != 1 || strings.Contains(strings.Join(init[0].Tools, " "), "Structured") {
				t.Errorf("init %+v", init)
			}
		})
	}
}

// The CLI writes its transcript a while after its result; Close waits for it.
func TestCloseKeepsTheMemory(t *testing.T) {
	_, url := serve(t, builtin(t, "memory"))
	l := newLaunch(t, url)
	p := start(t, l)
	l.Resume = p.must(p.say("the code is 4711")).AgentID
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.kill()
	p = start(t, l)
	if got := p.must(p.say("what was it?")); got.Text != "In turn 2 I still know: the code is 4711" {
		t.Errorf("text %q", got.Text)
	}
}

func TestSubagentsAreTold(t *testing.T) {
	_, url := serve(t, scripted.MustParse(`
rules:
  - match: {message: look it up, tool_results: 0, has_tool: Agent}
    answer: [{tool_use: Agent, input: {description: "Look", prompt: "you are the second", subagent_type: "general-purpose"}}]
  - match: {message: you are the second, tool_results: 0}
    answer: [{tool_use: Bash, input: {command: "echo found", description: "Find"}}]
  - match: {message: you are the second}
    answer: [{text: "I {{trim .LastToolResult}} it"}]
  - match: {tool_name: Agent}
    answer: [{text: "done"}]
`))
	l := newLaunch(t, url)
	l.Profile.Tools = []string{"Task", "Bash"}
	p := start(t, l)
	got := p.must(p.say("look it up"))
	begin := got.of(agent.EventToolStart)
	if len(begin) != 2 || begin[0].Tool != "Agent" || begin[0].ParentID != "" || begin[1].Tool != "Bash" || begin[1].ParentID != begin[0].ToolID {
		t.Fatalf("tools %+v", begin)
	}
	end := got.of(agent.EventToolEnd)
	if len(end) != 2 || end[0].ParentID != begin[0].ToolID || end[0].Result != "found" || end[1].Tool != "Agent" {
		t.Errorf("results %+v", end)
	}
	if got.Text != "done" || got.Turns != 2 || strings.Join(got.Tools, " ") != "Agent Bash" {
		t.Errorf("result %+v", got.Result)
	}
}
