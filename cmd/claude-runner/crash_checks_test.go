package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"claude-runner/backends"
)

// whole reads a session's stream from its beginning, unbroken.
func (c *crash) whole(session string) []crashEvent {
	var out []crashEvent
	for after, more := int64(0), true; more; {
		resp, err := http.Get(fmt.Sprintf("%s/session/%s/events?limit=1000&after=%d", c.base, session, after))
		if err != nil {
			c.t.Fatal(err)
		}
		var page struct {
			Events []json.RawMessage `json:"events"`
			Next   int64             `json:"next"`
			More   bool              `json:"more"`
		}
		err = errors.Join(json.NewDecoder(resp.Body).Decode(&page), resp.Body.Close())
		if err != nil || resp.StatusCode != http.StatusOK {
			c.t.Fatalf("events of %s: %d, %v", session, resp.StatusCode, err)
		}
		for _, raw := range page.Events {
			e := crashEvent{raw: string(raw)}
			if err := json.Unmarshal(raw, &e); err != nil {
				c.t.Fatal(err)
			}
			out = append(out, e)
		}
		after, more = page.Next, page.More
	}
	return out
}

type crashTask struct {
	TaskID    string  `json:"taskId"`
	SessionID string  `json:"sessionId"`
	Message   string  `json:"message"`
	Status    string  `json:"status"`
	Error     string  `json:"error"`
	Cost      float64 `json:"cost"`
}

// tasks returns every task that the runner knows.
func (c *crash) tasks() []crashTask {
	var all []crashTask
	for cursor := ""; ; {
		resp, err := http.Get(c.base + "/tasks?limit=100&cursor=" + cursor)
		if err != nil {
			c.t.Fatal(err)
		}
		var page struct {
			Tasks      []crashTask `json:"tasks"`
			NextCursor string      `json:"nextCursor"`
		}
		err = errors.Join(json.NewDecoder(resp.Body).Decode(&page), resp.Body.Close())
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, page.Tasks...)
		if cursor = page.NextCursor; cursor == "" {
			return all
		}
	}
}

// checkTasks holds that each acknowledged task is there once and has succeeded,
// and that its stream tells one end of it.
func (c *crash) checkTasks() {
	known := map[string]int{}
	ids := map[string]bool{}
	for _, task := range c.tasks() {
		known[task.SessionID+": "+task.Message]++
		ids[task.TaskID] = true
		if task.Status != "succeeded" {
			c.t.Errorf("%s, %s: %s: %s", task.SessionID, task.Message, task.Status, task.Error)
		}
	}
	total := 0
	for session, steps := range c.steps {
		total += steps
		for n := range steps {
			if name := fmt.Sprintf("%s: step %d", session, n+1); known[name] != 1 {
				c.t.Errorf("%s was run %d times", name, known[name])
			}
		}
	}
	if len(ids) != total || total == 0 {
		c.t.Errorf("there are %d tasks, %d were answered", len(ids), total)
	}
	ends := map[string]int{}
	for _, events := range c.streams {
		for _, e := range events {
			if e.Type == "task_complete" || e.Type == "task_error" || e.Type == "abort" {
				ends[e.TaskID]++
			}
		}
	}
	for id := range ids {
		if ends[id] != 1 {
			c.t.Errorf("the stream tells %d ends of task %s", ends[id], id)
		}
	}
	c.t.Logf("%d tasks in %d sessions", total, len(c.steps))
}

// checkStreams holds the streams that were read in pieces against unbroken
// ones, and each event against its number.
func (c *crash) checkStreams() {
	for session, pieces := range c.streams {
		whole := c.whole(session)
		if len(whole) != len(pieces) {
			c.t.Errorf("%s: %d events in pieces, %d unbroken", session, len(pieces), len(whole))
		}
		said := map[string]string{}
		for i, e := range pieces {
			if e.Seq != int64(i)+1 {
				c.t.Errorf("%s: event %d has the number %d", session, i+1, e.Seq)
				break
			}
			if i < len(whole) && whole[i].raw != e.raw {
				c.t.Errorf("%s: event %d is %s in pieces and %s unbroken", session, e.Seq, e.raw, whole[i].raw)
			}
			if e.Type == "text" || e.Type == "thinking" {
				said[e.TaskID] += e.Text
			}
		}
		for task, text := range said {
			if strings.Count(text, "I begin with") != 1 || strings.Count(text, "I shall do") != 1 || strings.Count(text, "done:") != 1 {
				c.t.Errorf("%s, task %s said %q", session, task, text)
			}
		}
	}
}

// checkCosts holds the tasks' costs against what the model served.
func (c *crash) checkCosts() {
	sum := 0.0
	for _, task := range c.tasks() {
		sum += task.Cost
	}
	if served := c.model.Served().USD; math.Abs(sum-served) > 1e-6 || served == 0 {
		c.t.Errorf("the tasks cost %.6f dollars, the model served %.6f", sum, served)
	}
}

// checkRemains holds that nothing is left but the sessions' folders.
func (c *crash) checkRemains() {
	entries, err := os.ReadDir(filepath.Join(c.dir, "sessions"))
	if err != nil {
		c.t.Fatal(err)
	}
	// Links are other names of sessions' folders.
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Type() == os.ModeSymlink })
	if len(entries) != len(c.steps) {
		c.t.Errorf("%d folders for %d sessions: %v", len(entries), len(c.steps), entries)
	}
	for _, name := range []string{c.dir, c.config} {
		if left := processes(c.t, name); len(left) > 0 {
			c.t.Errorf("processes are left: %q", left)
		}
	}
	c.sandboxes(func(_ backends.Backend, handles []backends.Handle) {
		if len(handles) > 0 {
			c.t.Errorf("sandboxes are left: %+v", handles)
		}
	})
}

// sandboxes hands over those that there are, while the runner is away.
func (c *crash) sandboxes(to func(backends.Backend, []backends.Handle)) {
	c.t.Helper()
	registry, err := openBackendsAlone(c.t.Context(), loadConfig(c.t, c.config, nil))
	if err != nil {
		c.t.Fatal(err)
	}
	defer registry.Close()
	b, _ := registry.Backend("it")
	handles, err := b.List(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	to(b, handles)
}
