package claude_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"claude-runner/agent"
	"claude-runner/agent/scripted"
)

func TestTurnEndsAtItsBounds(t *testing.T) {
	script := scripted.MustParse(`
rules:
  - match: {earlier_turns: 0}
    answer: [{tool_use: Bash, input: {command: "true", description: "Do"}}]
    usage: {input_tokens: 1000, output_tokens: 100}
  - answer: [{text: "at ease"}]
    usage: {input_tokens: 1000, output_tokens: 100}
`)
	t.Run("turns", func(t *testing.T) {
		_, url := serve(t, script)
		l := newLaunch(t, url)
		l.Profile.MaxTurns = 2
		p := start(t, l)
		got := p.say("go on and on")
		if got.code() != agent.CodeMaxTurns || got.Turns != 2 || got.CostUSD <= 0 {
			t.Errorf("error %v, result %+v", got.err, got.Result)
		}
		if !p.Alive() {
			t.Fatal("the process is not alive")
		}
		if next := p.must(p.say("rest")); next.Text != "at ease" || next.Turns != 1 {
			t.Errorf("next turn %+v", next.Result)
		}
	})
	t.Run("budget", func(t *testing.T) {
		_, url := serve(t, script)
		l := newLaunch(t, url)
		l.Profile.MaxBudgetUSD = 0.01
		p := start(t, l)
		got := p.say("go on and on")
		if got.code() != agent.CodeBudget || got.CostUSD < 0.01 || got.CostUSD > 0.02 {
			t.Errorf("error %v, result %+v", got.err, got.Result)
		}
		// The CLI counts a process's turns together; a task has a budget of its own.
		if p.Alive() {
			t.Error("the process is alive, with a budget that is spent")
		}
		p.end()
		l.Resume = got.AgentID
		p = start(t, l)
		if next := p.must(p.say("rest")); next.Text != "at ease" {
			t.Errorf("next turn %+v", next.Result)
		}
	})
}

func TestTurnRetriesAndSaysSo(t *testing.T) {
	_, url := serve(t, builtin(t, "error-once"))
	p := start(t, newLaunch(t, url))
	got := p.must(p.say("hello"))
	status := got.of(agent.EventStatus)
	if len(status) != 1 || status[0].Status.Phase != "retry" || status[0].Status.Attempt != 1 || !strings.Contains(status[0].Status.Message, "answered 500") {
		t.Errorf("status %+v", status)
	}
	if got.Text != "I am well again." {
		t.Errorf("text %q", got.Text)
	}
}

func TestTurnIsAskedForAgainWithoutStreaming(t *testing.T) {
	_, url := serve(t, builtin(t, "malformed"))
	p := start(t, newLaunch(t, url))
	got := p.must(p.say("hello"))
	if got.Text != "This answer is whole." || !strings.HasSuffix(got.texts(agent.EventText), got.Text) {
		t.Errorf("text %q, events %q", got.Text, got.texts(agent.EventText))
	}
}

func TestTurnTellsWhatTheModelAPIDid(t *testing.T) {
	for script, c := range map[string]struct {
		code   agent.ErrorCode
		status int
		words  string
	}{
		"error-401": {agent.CodeModelAuth, 401, "check model_api"},
		"error-429": {agent.CodeModelRateLimited, 429, "rate limit"},
		"error-500": {agent.CodeModelUnavailable, 500, "base_url"},
		"error-529": {agent.CodeModelOverloaded, 529, "overloaded"},
		"cut":       {agent.CodeModelUnavailable, 0, "base_url"},
	} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			_, url := serve(t, builtin(t, script))
			p := start(t, newLaunch(t, url))
			got := p.say("hello")
			var e *agent.Error
			if !errors.As(got.err, &e) || e.Code != c.code || e.Status != c.status || !strings.Contains(e.Message, c.words) {
				t.Errorf("error %+v (%v), want %+v", e, got.err, c)
			}
			if !p.Alive() {
				t.Error("the process is not alive")
			}
		})
	}
	t.Run("unknown model", func(t *testing.T) {
		_, url := serve(t, scripted.MustParse("models: [claude-other]\nrules: [{answer: [{text: x}]}]\n"))
		p := start(t, newLaunch(t, url))
		if got := p.say("hello"); got.code() != agent.CodeModelRejected {
			t.Errorf("error %v, code %q", got.err, got.code())
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		server, url := serve(t, builtin(t, "hello"))
		_ = server.Close()
		p := start(t, newLaunch(t, url))
		if got := p.say("hello"); got.code() != agent.CodeModelUnavailable || len(got.of(agent.EventStatus)) != 2 {
			t.Errorf("error %v, code %q, %+v", got.err, got.code(), got.of(agent.EventStatus))
		}
	})
	t.Run("no credentials", func(t *testing.T) {
		_, url := serve(t, builtin(t, "hello"))
		l := newLaunch(t, url)
		l.API.APIKey = ""
		p := start(t, l)
		if got := p.say("hello"); got.code() != agent.CodeModelAuth {
			t.Errorf("error %v, code %q", got.err, got.code())
		}
	})
}

var errAborted = errors.New("aborted by a test")

func TestTurnIsInterrupted(t *testing.T) {
	for script, at := range map[string]agent.EventType{"slow": agent.EventText, "hang": agent.EventText, "long-tool": agent.EventToolStart} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			_, url := serve(t, builtin(t, script))
			l := newLaunch(t, url)
			p := start(t, l)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			var since time.Time
			got := p.sayIn(ctx, agent.Turn{Message: "begin"}, func(e agent.Event) {
				if e.Type == at && since.IsZero() {
					since = time.Now()
					cancel(errAborted)
				}
			})
			if !errors.Is(got.err, errAborted) {
				t.Errorf("error %v", got.err)
			}
			if took := time.Since(since); took > 15*time.Second {
				t.Errorf("took %v", took)
			}
			if at == agent.EventText && got.Text == "" || got.AgentID != l.NewID || got.Turns != 1 {
				t.Errorf("result %+v", got.Result)
			}
			if !p.Alive() {
				t.Fatal("the process is not alive")
			}
		})
	}
	t.Run("at once", func(t *testing.T) {
		_, url := serve(t, builtin(t, "hello"))
		p := start(t, newLaunch(t, url))
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errAborted)
		if got := p.sayIn(ctx, agent.Turn{Message: "begin"}, nil); !errors.Is(got.err, errAborted) {
			t.Errorf("error %v", got.err)
		}
		if got := p.must(p.say("again")); got.Text != "Hello. You said: again" {
			t.Errorf("text %q", got.Text)
		}
	})
	t.Run("and goes on", func(t *testing.T) {
		_, url := serve(t, scripted.MustParse(`
rules:
  - match: {message: sleep, tool_results: 0}
    answer: [{tool_use: Bash, input: {command: "sleep 60", description: "Wait"}}]
  - answer: [{text: "I heard: {{.Message}}"}]
`))
		p := start(t, newLaunch(t, url))
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		p.sayIn(ctx, agent.Turn{Message: "sleep"}, func(e agent.Event) {
			if e.Type == agent.EventToolStart {
				cancel(errAborted)
			}
		})
		if got := p.must(p.say("wake up")); got.Text != "I heard: wake up" {
			t.Errorf("text %q", got.Text)
		}
	})
}

func TestTurnStalls(t *testing.T) {
	for _, script := range []string{"hang", "hang-headers"} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			_, url := serve(t, builtin(t, script))
			l := newLaunch(t, url)
			l.Profile.StallTimeout = 3 * time.Second
			p := start(t, l)
			begin := time.Now()
			got := p.say("begin")
			if got.code() != agent.CodeStalled {
				t.Errorf("error %v, code %q", got.err, got.code())
			}
			if took := time.Since(begin); took < l.Profile.StallTimeout || took > 30*time.Second {
				t.Errorf("took %v", took)
			}
			if !p.Alive() {
				t.Error("the process is not alive")
			}
		})
	}
	t.Run("not while a tool runs", func(t *testing.T) {
		t.Parallel()
		_, url := serve(t, builtin(t, "tool-use"))
		l := newLaunch(t, url)
		l.Profile.StallTimeout = 6 * time.Second
		p := start(t, l)
		if got := p.must(p.say("run: sleep 8; echo rested")); got.Text != "It printed: rested" {
			t.Errorf("text %q", got.Text)
		}
	})
}

func TestTurnOfAProcessThatDies(t *testing.T) {
	_, url := serve(t, builtin(t, "slow"))
	p := start(t, newLaunch(t, url))
	got := p.sayIn(t.Context(), agent.Turn{Message: "begin"}, func(e agent.Event) {
		if e.Type == agent.EventText {
			_ = p.cmd.Process.Kill()
		}
	})
	if got.code() != agent.CodeAgentExited || got.Text == "" || got.Usage.InputTokens == 0 || got.AgentID == "" {
		t.Errorf("error %v, result %+v", got.err, got.Result)
	}
	if p.Alive() {
		t.Error("the process is alive")
	}
	if next := p.say("again"); next.code() != agent.CodeAgentExited {
		t.Errorf("next turn: %v", next.err)
	}
	p.kill()
}
