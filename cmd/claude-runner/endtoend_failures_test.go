package main

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// testModelFails holds that no error of the model API's is taken for success,
// and that the client is told which it was.
func testModelFails(t *testing.T, d *deployment) {
	for message, code := range map[string]string{
		"fail 400": "model_rejected",
		"fail 401": "model_auth",
		"fail 429": "model_rate_limited",
		"fail 500": "model_unavailable",
		"fail 529": "model_overloaded",
	} {
		t.Run(message, func(t *testing.T) {
			t.Parallel()
			c := d.chat(t, "")
			s := c.stream("")
			r := c.fail(message, http.StatusBadGateway, code)
			if r.Status != "failed" || string(r.Output) != "null" || r.Duration > 30_000 {
				t.Errorf("the task: %s", r.body)
			}
			if e := s.until("task_error"); e.Code != code || e.TaskID != r.TaskID {
				t.Errorf("the stream says %s", e.raw)
			}
		})
	}
}

func testModelRecovers(t *testing.T, d *deployment) {
	c := d.chat(t, "")
	s := c.stream("")
	if r := c.ask("fail once"); r.Text != "I am well again." {
		t.Errorf("the task: %s", r.body)
	}
	e := s.until("status")
	for e.waits() {
		e = s.until("status")
	}
	if e.Status.Phase != "retry" || e.Status.Attempt != 1 {
		t.Errorf("the stream says %s", e.raw)
	}
}

func testModelCut(t *testing.T, d *deployment) {
	c := d.chat(t, "")
	if r := c.fail("cut the line", http.StatusBadGateway, "model_unavailable"); string(r.Output) != "null" {
		t.Errorf("the task: %s", r.body)
	}
	if next := c.ask("say: I am here"); next.Text != "I am here" {
		t.Errorf("the session afterwards: %s", next.body)
	}
}

// testModelSilent holds that a model which says nothing more is not waited for
// beyond the agent's stall_timeout of four seconds.
func testModelSilent(t *testing.T, d *deployment) {
	for message, codes := range map[string][]string{
		"fall silent": {"stalled"},
		// The CLI gives up by itself after two seconds, and tries again.
		"say nothing at all": {"stalled", "model_unavailable"},
	} {
		t.Run(message, func(t *testing.T) {
			t.Parallel()
			c := d.chat(t, "impatient")
			begun := time.Now()
			r := c.send(message)
			if r.status != http.StatusBadGateway || !slices.Contains(codes, r.Code) {
				t.Errorf("got %d %s", r.status, r.body)
			}
			if took := time.Since(begun); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
			eventually(t, waitLong, "the sandbox is gone", func() bool { return len(d.sandboxes(t, c.id)) == 0 })
		})
	}
}

// testKilledAgent has a tool kill the agent that called it.
func testKilledAgent(t *testing.T, d *deployment) {
	c := d.chat(t, "")
	c.ask("say: before")
	number := unique()
	r := c.fail("run: setsid sleep "+number+" & kill -9 $PPID; sleep "+number, http.StatusBadGateway, "sandbox_killed")
	d.expectGone(t, c, number, time.Now())
	if !strings.Contains(r.Error, "signal 9") {
		t.Errorf("the error says %q", r.Error)
	}
	if next := c.ask("what do you know?"); !next.Resumed || !strings.Contains(next.Text, "say: before") {
		t.Errorf("the session afterwards: %s", next.body)
	}
}

// testOutOfMemory gives an agent less memory than it needs. Where the backend
// can't hold it to that, the answer must say so.
func testOutOfMemory(t *testing.T, d *deployment) {
	c := d.chat(t, "tiny")
	if d.capabilities.Enforced.Memory {
		r := c.fail("say: hi", http.StatusBadGateway, "out_of_memory")
		if !strings.Contains(r.Error, "limits.memory") {
			t.Errorf("the error says %q", r.Error)
		}
		eventually(t, waitLong, "the sandbox is gone", func() bool { return len(d.sandboxes(t, c.id)) == 0 })
		return
	}
	r := c.ask("say: hi")
	if !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "memory limit") }) {
		t.Errorf("the memory limit is not held, and the warnings are %q", r.Warnings)
	}
}

func testMaxTurns(t *testing.T, d *deployment) {
	r := d.chat(t, "").fail("loop", http.StatusBadGateway, "max_turns")
	if r.Cost <= 0 || !slices.Equal(r.Tools, []string{"Bash"}) || !strings.Contains(r.Error, "max_turns") {
		t.Errorf("the task: %s", r.body)
	}
}

// testOutputBySchema holds that an output is only what its schema allows, and
// that its absence is told.
func testOutputBySchema(t *testing.T, d *deployment) {
	c := d.chat(t, "strict")
	if r := c.ask(`give {"action":"reply","message":"hi"}`); string(r.Output) != `{"action":"reply","message":"hi"}` || r.OutputError != "" {
		t.Errorf("a valid output: %s", r.body)
	}
	r := c.ask("give nothing")
	if string(r.Output) != "null" || r.OutputError == "" || r.Text != "I would rather talk." || r.Response != r.Text {
		t.Errorf("no output: %s", r.body)
	}
	r = c.fail(`give {"action":"dance"}`, http.StatusBadGateway, "output_retries")
	if !strings.Contains(r.Error, "output.schema.json") || string(r.Output) != "null" {
		t.Errorf("an output that is not valid: %s", r.body)
	}
	if r := c.ask(`give {"action":"close"}`); string(r.Output) != `{"action":"close"}` {
		t.Errorf("the session afterwards: %s", r.body)
	}
}

func testOutputInWords(t *testing.T, d *deployment) {
	c := d.chat(t, "loose")
	for said, want := range map[string]string{
		`Here it is: {"action":"reply","message":"a } in a string"} Bye.`:           `{"action":"reply","message":"a } in a string"}`,
		"First {\"action\":\"close\"}, no:\n```json\n{\"action\":{\"a\":[1]}}\n```": `{"action":{"a":[1]}}`,
	} {
		if r := c.ask("say: " + said); string(r.Output) != want || r.OutputError != "" {
			t.Errorf("%s: %s", said, r.body)
		}
	}
	r := c.ask("say: just words")
	if string(r.Output) != `{"response":"just words"}` || r.OutputError == "" || r.Text != "just words" {
		t.Errorf("no JSON: %s", r.body)
	}
}
