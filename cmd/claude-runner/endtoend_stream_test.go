package main

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testStream holds that a client which connected first sees all that a task
// does, in order and with no gap, and that ?after=0 replays the same.
func testStream(t *testing.T, d *deployment) {
	c := d.chat(t, "")
	s := c.stream("")
	r := c.ask("show everything")
	s.until("task_complete")

	got := slices.DeleteFunc(slices.Clone(s.seen), func(e event) bool { return e.Type == "usage" || e.waits() })
	const want = "connected task_queued task_start init thinking text tool_start tool_end text task_complete"
	if kindsOf(got) != want {
		t.Errorf("events: %s\nwant:   %s", kindsOf(got), want)
	}
	var thinking, text strings.Builder
	for i, e := range s.seen[1:] {
		if e.Seq != int64(i+1) || e.TaskID != r.TaskID {
			t.Errorf("event %d is of another task or has a gap before it: %s", i+1, e.raw)
		}
		switch e.Type {
		case "init":
			if e.Model != "claude-sonnet-4-6" || e.Backend != d.kind || e.AgentSessionID == "" || !slices.Equal(e.Tools, []string{"Bash"}) {
				t.Errorf("init: %s", e.raw)
			}
		case "thinking":
			thinking.WriteString(e.Text)
		case "text":
			text.WriteString(e.Text)
		case "tool_start":
			if e.Tool != "Bash" || !strings.Contains(string(e.Input), "echo from the tool") {
				t.Errorf("tool_start: %s", e.raw)
			}
		case "tool_end":
			if e.Tool != "Bash" || e.Result != "from the tool" {
				t.Errorf("tool_end: %s", e.raw)
			}
		case "task_complete":
			if e.Cost != r.Cost || string(e.Output) != string(r.Output) || !slices.Equal(e.Tools, r.Tools) {
				t.Errorf("task_complete: %s\nthe answer: %s", e.raw, r.body)
			}
		}
	}
	if thinking.String() != "They want to see everything that I can do. I use a tool." {
		t.Errorf("thinking: %q", thinking.String())
	}
	if text.String() != "I look around. The tool said: from the tool" {
		t.Errorf("text: %q", text.String())
	}
	if pieces := len(s.seen); pieces < 20 {
		t.Errorf("only %d events: words do not come as they are said", pieces)
	}

	if diff := cmp.Diff(raw(s.seen[1:]), replay(c, len(s.seen)-1)); diff != "" {
		t.Errorf("?after=0 (-live +replayed):\n%s", diff)
	}
}

// replay reads n events from the session's first on.
func replay(c *chat, n int) []string {
	c.t.Helper()
	s := c.stream("?after=0")
	for range n {
		s.next()
	}
	return raw(s.seen[1:])
}

func raw(events []event) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = e.raw
	}
	return out
}

// testStreamFollowers holds that all clients of a session see the same, also
// one that comes in the middle of a task, and that one which leaves harms
// nobody.
func testStreamFollowers(t *testing.T, d *deployment) {
	c := d.chat(t, "")
	first, leaving := c.stream(""), c.stream("")
	held := c.held("")
	first.until("tool_start")
	leaving.conn.Close()
	middle := c.stream("?after=0")
	c.letGo()
	if r := <-held; r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	first.until("task_complete")
	middle.until("task_complete")
	if diff := cmp.Diff(raw(first.seen[1:]), raw(middle.seen[1:])); diff != "" {
		t.Errorf("who came in the middle (-first +middle):\n%s", diff)
	}
}
