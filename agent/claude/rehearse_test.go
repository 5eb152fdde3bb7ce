package claude_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/agent/claude"
	"claude-runner/agent/scripted"
)

// TestRehearse has the real CLI rehearse: its model is asked twice, and of that
// nothing is in what it is asked, tells or counts afterwards, be it the same process
// or one that goes on from its memory. What it was asked is written down nowhere.
func TestRehearse(t *testing.T) {
	for name, adapt := range map[string]func(*agent.Launch){
		"plain": func(*agent.Launch) {},
		"with subagents and an output's schema": func(l *agent.Launch) {
			l.Profile.Tools = append(l.Profile.Tools, "Agent")
			l.Template.Schema = json.RawMessage(`{"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plain, want := rehearseOrNot(t, adapt, 0)
			rehearsed, got := rehearseOrNot(t, adapt, 2)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("what the model is asked (-without +with a rehearsal):\n%s", diff)
			}
			for i, turn := range plain {
				if r := rehearsed[i]; r.Text != turn.Text || r.Usage != turn.Usage || r.CostUSD != turn.CostUSD || r.Turns != turn.Turns || len(r.events) != len(turn.events) {
					t.Errorf("turn %d is %+v, without a rehearsal %+v", i, r, turn)
				}
			}
		})
	}
}

// rehearseOrNot has an agent rehearse, which asks its model so many times, and have
// three turns then, the last in another process. It returns them, and what the
// model was asked in them.
func rehearseOrNot(t *testing.T, adapt func(*agent.Launch), calls int) (turns []turn, asked []string) {
	server := scripted.New(scripted.MustParse(`
rules:
  - match: {message: "`+agent.RehearsalQuestion+`"}
    answer: [{text: "Yes."}]
    usage: {input_tokens: 0, output_tokens: 0}
  - match: {message: /^$/}
    error: {status: 400}
  - match: {has_tool: StructuredOutput, tool_results: 0}
    answer: [{tool_use: StructuredOutput, input: {code: "{{.Message}}"}}]
  - match: {earlier_turns: 0}
    answer: [{text: "I will remember: {{.Message}}"}]
    usage: {input_tokens: 10, output_tokens: 5}
  - match: {history: '/the code is ([0-9]*)/'}
    answer: [{text: "In turn {{.Turn}} I still know: {{.HistoryMatch 1}}"}]
`), scripted.Options{})
	t.Cleanup(func() { _ = server.Close() })
	var bodies []string
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil {
			t.Error(err)
		} else if r.Method == http.MethodPost {
			r.Body = io.NopCloser(bytes.NewReader(body))
			bodies = append(bodies, string(body))
		}
		server.ServeHTTP(w, r)
	}))
	t.Cleanup(api.Close)
	l := aheadLaunch(t, api.URL)
	adapt(&l)
	p := start(t, l)
	<-p.Ready()
	if calls > 0 {
		if err := p.Rehearse(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(bodies) != calls {
		t.Fatalf("the model is asked %d times in a rehearsal, want %d", len(bodies), calls)
	}
	bodies = nil
	turns = append(turns, p.must(p.say("the code is 4711")), p.must(p.say("what was it?")))
	p.end()
	l.Resume = turns[0].AgentID
	p = start(t, l)
	turns = append(turns, p.must(p.say("and now?")))
	p.end()
	if l.Template.Schema == nil && (turns[1].Text != "In turn 2 I still know: 4711" || turns[2].Text != "In turn 3 I still know: 4711") {
		t.Errorf("the later turns say %q and %q", turns[1].Text, turns[2].Text)
	}
	transcripts, err := filepath.Glob(filepath.Join(l.Home.Host, ".claude", "projects", "*", "*.jsonl"))
	if err != nil || len(transcripts) != 1 {
		t.Fatalf("transcripts %v, %v", transcripts, err)
	}
	text, err := os.ReadFile(transcripts[0])
	if err != nil || strings.Contains(string(text), agent.RehearsalQuestion) {
		t.Errorf("the transcript has the rehearsal: %s, %v", text, err)
	}
	for _, body := range bodies {
		asked = append(asked, alike(t, l, body))
	}
	return turns, asked
}

// alike is what a model was asked without what differs from one agent to
// another.
func alike(t *testing.T, l agent.Launch, body string) string {
	body = strings.NewReplacer(l.Home.Host, "HOME", l.Workspace.Host, "WORKSPACE").Replace(body)
	for _, differs := range []string{
		`cc_version=[0-9.]+\.[0-9a-f]+`, // it is made of the conversation's first message, be it empty
		`toolu_\w+`,
		`\d{4}-\d{2}-\d{2}`, // a day may begin between the two
	} {
		body = regexp.MustCompile(differs).ReplaceAllString(body, "X")
	}
	var request map[string]any
	if err := json.Unmarshal([]byte(body), &request); err != nil {
		t.Fatal(err)
	}
	delete(request, "metadata") // the conversation's name
	return asJSON(t, request)
}

// A refused turn's result, as the CLI tells it.
const refusalLine = `{"type":"result","subtype":"success","is_error":true,"api_error_status":400,"result":"API Error: 400"}`

func TestRehearsalOfAFake(t *testing.T) {
	answer := func(subtype string) string {
		return `{"type":"control_response","response":{"subtype":"` + subtype + `","request_id":"rehearsal","error":"not supported"}}`
	}
	for _, c := range []struct {
		name   string
		launch agent.Launch
		play   func(f *fake)
		failed string // what the error says; "": none
		dead   bool
	}{
		{name: "its words are nobody's", play: func(f *fake) {
			f.hearUntil("side_question")
			f.say(deltaLine, resultLine, answer("success"))
			f.hearUntil(`"content":[]`)
			f.say(initLine, deltaLine, refusalLine)
		}},
		{name: "a turn that is answered", failed: "would remember", play: func(f *fake) {
			f.hearUntil("side_question")
			f.say(answer("success"))
			f.hearUntil(`"content":[]`)
			f.say(resultLine)
		}},
		{name: "a CLI that can't", play: func(f *fake) {
			f.hearUntil("side_question")
			f.say(answer("error"))
		}},
		{name: "a conversation that goes on", launch: agent.Launch{Resume: newID}, play: func(f *fake) {
			f.hearUntil("side_question")
			f.say(answer("success"))
		}},
		{name: "an agent that may have hooks", launch: agent.Launch{Profile: agent.Profile{ExtraArgs: []string{"--plugin-dir=/plugins"}}}, play: func(f *fake) {
			f.hearUntil("side_question")
			f.say(answer("success"))
		}},
		{name: "a CLI that dies", failed: "closed", dead: true, play: func(f *fake) {
			f.hearUntil("side_question")
			f.die()
		}},
		{name: "a CLI that dies of a turn", failed: "closed", dead: true, play: func(f *fake) {
			f.hearUntil("side_question")
			f.say(answer("success"))
			f.hearUntil(`"content":[]`)
			f.die()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t, c.launch, claude.Options{})
			go c.play(f)
			err := f.Rehearse(t.Context())
			if (err != nil) != (c.failed != "") || err != nil && !strings.Contains(err.Error(), c.failed) {
				t.Fatalf("%v, want %q", err, c.failed)
			}
			if f.Alive() == c.dead {
				t.Fatalf("alive %v", f.Alive())
			}
			if c.dead || err != nil {
				return
			}
			go func() {
				f.hearUntil(`"user"`)
				f.say(strings.Replace(resultLine, "answer", "first", 1))
			}()
			if got := take(t.Context(), f); got.err != nil || got.Text != "first" || got.CostUSD != 0.5 || len(got.events) != 0 {
				t.Errorf("the first turn is %+v, %v", got, got.err)
			}
		})
	}
	for _, step := range []string{"side_question", `"content":[]`} {
		t.Run("a CLI that never ends at "+step, func(t *testing.T) {
			f := newFake(t, agent.Launch{}, claude.Options{})
			enough := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				f.hearUntil("side_question")
				if step != "side_question" {
					f.say(answer("success"))
					f.hearUntil(step)
				}
				cancel(enough)
			}()
			if err := f.Rehearse(ctx); !errors.Is(err, enough) {
				t.Errorf("%v", err)
			}
		})
	}
}
