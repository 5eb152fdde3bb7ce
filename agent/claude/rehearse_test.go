package claude_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"claude-runner/agent"
	"claude-runner/agent/claude"
	"claude-runner/agent/scripted"
)

// TestRehearse has the real CLI rehearse: its model is asked once, and of that
// nothing is in what it is asked, tells, writes down or counts afterwards.
func TestRehearse(t *testing.T) {
	server, url := serve(t, scripted.MustParse(`
rules:
  - match: {message: Are you there}
    answer: [{text: "Yes."}]
    usage: {input_tokens: 0, output_tokens: 0}
  - match: {earlier_turns: 0}
    answer: [{text: "I will remember: {{.Message}}"}]
    usage: {input_tokens: 10, output_tokens: 5}
  - match: {history: '/I will remember: (.*)/'}
    answer: [{text: "In turn {{.Turn}} I still know: {{.HistoryMatch 1}}"}]
`))
	converse := func(rehearse bool) (first turn, asked []scripted.Request) {
		l := aheadLaunch(t, url)
		p := start(t, l)
		<-p.Ready()
		before := len(server.Requests())
		if rehearse {
			if err := p.Rehearse(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(server.Requests()) - before; rehearse && n != 1 {
			t.Errorf("the model is asked %d times in a rehearsal", n)
		}
		before = len(server.Requests())
		first = p.must(p.say("the code is 4711"))
		if second := p.must(p.say("what was it?")); second.Text != "In turn 2 I still know: the code is 4711" {
			t.Errorf("the second turn says %q", second.Text)
		}
		p.end()
		transcripts, err := filepath.Glob(filepath.Join(l.Home.Host, ".claude", "projects", "*", "*.jsonl"))
		if err != nil || len(transcripts) != 1 {
			t.Fatalf("transcripts %v, %v", transcripts, err)
		}
		text, err := os.ReadFile(transcripts[0])
		if err != nil || strings.Contains(string(text), "Are you there") {
			t.Errorf("the transcript has the rehearsal: %s, %v", text, err)
		}
		return first, server.Requests()[before:]
	}
	plain, want := converse(false)
	rehearsed, got := converse(true)
	if len(got) != len(want) {
		t.Fatalf("%d requests, %d without a rehearsal", len(got), len(want))
	}
	for i := range want {
		if !reflect.DeepEqual(got[i].Tools, want[i].Tools) || got[i].View.Message != want[i].View.Message || got[i].View.Turn != want[i].View.Turn ||
			!reflect.DeepEqual(got[i].View.Earlier, want[i].View.Earlier) || len(got[i].View.System) != len(want[i].View.System) {
			t.Errorf("request %d is %+v, without a rehearsal %+v", i, got[i], want[i])
		}
	}
	if rehearsed.Usage != plain.Usage || rehearsed.CostUSD != plain.CostUSD || rehearsed.Turns != plain.Turns || len(rehearsed.events) != len(plain.events) {
		t.Errorf("the first turn is %+v, without a rehearsal %+v", rehearsed, plain)
	}
}

func TestRehearsalOfAFake(t *testing.T) {
	const answer = `{"type":"control_response","response":{"subtype":"%","request_id":"rehearsal","error":"not supported"}}`
	t.Run("its words are nobody's", func(t *testing.T) {
		f := newFake(t, agent.Launch{}, claude.Options{})
		go func() {
			f.hearUntil("side_question")
			f.say(deltaLine, resultLine, strings.Replace(answer, "%", "success", 1))
			f.hearUntil(`"user"`)
			f.say(strings.Replace(resultLine, "answer", "first", 1))
		}()
		if err := f.Rehearse(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := take(t.Context(), f); got.err != nil || got.Text != "first" || len(got.events) != 0 {
			t.Errorf("%+v, %v", got, got.err)
		}
	})
	t.Run("a CLI that can't", func(t *testing.T) {
		f := newFake(t, agent.Launch{}, claude.Options{})
		go func() {
			f.hearUntil("side_question")
			f.say(strings.Replace(answer, "%", "error", 1))
		}()
		if err := f.Rehearse(t.Context()); err != nil || !f.Alive() {
			t.Errorf("%v, alive %v", err, f.Alive())
		}
	})
	t.Run("a CLI that never ends it", func(t *testing.T) {
		f := newFake(t, agent.Launch{}, claude.Options{})
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			f.hearUntil("side_question")
			cancel(enough)
		}()
		if err := f.Rehearse(ctx); !errors.Is(err, enough) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a CLI that dies", func(t *testing.T) {
		f := newFake(t, agent.Launch{}, claude.Options{})
		go func() {
			f.hearUntil("side_question")
			f.die()
		}()
		if err := f.Rehearse(t.Context()); err == nil || f.Alive() {
			t.Errorf("%v, alive %v", err, f.Alive())
		}
	})
}
