package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Bounds of waiting: how soon what is ended must be gone, and its sandbox be removed,
// of which the runner's own waits may be 3.5 seconds; and how long something may take
// on a busy machine before a test gives up.
const (
	goneWithin    = 2 * time.Second
	removedWithin = 10 * time.Second
	waitLong      = time.Minute
)

// expectGone holds that a session's processes are gone, soon, and then its
// sandboxes: how long the engine takes to remove those is its own matter.
func (d *deployment) expectGone(t *testing.T, c *chat, mark string, since time.Time) {
	t.Helper()
	await := func(what string, left func() []string) time.Duration {
		t.Helper()
		eventually(t, waitLong, "its "+what+" are gone", func() bool { return len(left()) == 0 })
		return time.Since(since).Round(time.Millisecond)
	}
	took := await("processes", func() []string { return processes(t, mark) })
	removed := await("sandboxes", func() []string { return d.sandboxes(t, c.id) })
	t.Logf("its processes are gone after %v, its sandboxes after %v", took, removed)
	if took > goneWithin {
		t.Errorf("its processes are gone only after %v, want %v", took, goneWithin)
	}
	if removed > removedWithin {
		t.Errorf("its sandboxes are gone only after %v, want %v", removed, removedWithin)
	}
}

// detached is a message whose tool leaves a process in a session of its own,
// and stays itself. Both are known by the number.
func detached(number string) string {
	return "run: setsid sleep " + number + " & sleep " + number
}

// awaitProcesses waits until n processes of a number run.
func awaitProcesses(t *testing.T, number string, n int) {
	t.Helper()
	eventually(t, waitLong, fmt.Sprintf("%d processes run", n), func() bool {
		found := slices.DeleteFunc(processes(t, "sleep "+number), func(p string) bool { return strings.Contains(p, "setsid") })
		return len(found) >= n
	})
}

func testAbortTool(t *testing.T, d *deployment) {
	c := d.chat(t, "")
	number := unique()
	running := c.begin(detached(number))
	awaitProcesses(t, number, 2)
	since := time.Now()
	aborted := c.call(http.MethodPost, "/task/ID/abort")
	d.expectGone(t, c, number, since)

	r := <-running
	r.want(t, http.StatusConflict, "aborted")
	if r.Status != "aborted" || !strings.Contains(aborted.body, r.TaskID) || r.Cost <= 0 || !slices.Equal(r.Tools, []string{"Bash"}) {
		t.Errorf("the aborted task: %s\nthe abort: %s", r.body, aborted.body)
	}
	if next := c.ask("what do you know?"); !next.Resumed || !strings.HasPrefix(next.Text, "turn 2:") {
		t.Errorf("the session afterwards: %s", next.body)
	}
}

// testTimeout has a task run out of its four seconds. Its agent is there already:
// on a busy machine, to start one may take as long.
func testTimeout(t *testing.T, d *deployment) {
	c := d.chat(t, "brief")
	eventually(t, waitLong, "the agent has started in time", func() bool { return c.send("say: hi").status == http.StatusOK })
	number := unique()
	running := c.begin(detached(number))
	awaitProcesses(t, number, 2)
	r := <-running
	d.expectGone(t, c, number, time.Now())
	r.want(t, http.StatusGatewayTimeout, "timed_out")
	if r.Status != "timed_out" || r.Duration < 4000 || r.Duration > 8000 {
		t.Errorf("the task: %s", r.body)
	}
	eventually(t, waitLong, "the session works", func() bool { return c.send("say: I am here").Text == "I am here" })
}

func testAbortSpeech(t *testing.T, d *deployment) {
	c := d.chat(t, "")
	s := c.stream("")
	running := c.begin("speak slowly")
	s.until("text")
	since := time.Now()
	c.call(http.MethodPost, "/task/ID/abort")
	if took := time.Since(since); took > goneWithin {
		t.Errorf("the abort took %v", took)
	}
	(<-running).want(t, http.StatusConflict, "aborted")
	if e := s.until("abort"); e.Code != "aborted" {
		t.Errorf("the stream says %s", e.raw)
	}
	eventually(t, waitLong, "the sandbox is gone", func() bool { return len(d.sandboxes(t, c.id)) == 0 })
	if next := c.ask("say: I am here"); next.Text != "I am here" {
		t.Errorf("the session afterwards: %s", next.body)
	}
}

// testAbortQueue holds that an abort ends what runs and what waits, and that
// DELETE /task/:id ends that task alone.
func testAbortQueue(t *testing.T, d *deployment) {
	c := d.chat(t, "")
	held := c.held("")
	one := c.begin("say: one")
	eventually(t, waitLong, "one task waits", func() bool { return c.details().Queued == 1 })
	two := c.begin("say: two")
	eventually(t, waitLong, "two tasks wait", func() bool { return c.details().Queued == 2 })

	var page struct{ Tasks []task }
	d.get(t, "/tasks?status=queued&sessionId="+c.id, &page)
	if len(page.Tasks) != 2 {
		t.Fatalf("queued: %+v", page.Tasks)
	}
	c.call(http.MethodDelete, "/task/"+page.Tasks[0].TaskID) // the newest first
	(<-two).want(t, http.StatusConflict, "aborted")
	if got := c.details(); got.Queued != 1 || !got.Busy {
		t.Errorf("after DELETE /task: %+v", got)
	}
	r := c.call(http.MethodPost, "/task/ID/abort")
	var answer struct{ Aborted []string }
	if err := json.Unmarshal([]byte(r.body), &answer); err != nil || len(answer.Aborted) != 2 {
		t.Errorf("abort: %s, %v", r.body, err)
	}
	(<-held).want(t, http.StatusConflict, "aborted")
	(<-one).want(t, http.StatusConflict, "aborted")
	if next := c.ask("say: still here"); next.Text != "still here" {
		t.Errorf("the session afterwards: %s", next.body)
	}
}

// testQueueOrder holds that a session's tasks run one at a time, in the order
// of their submission.
func testQueueOrder(t *testing.T, d *deployment) {
	c := d.chat(t, "")
	s := c.stream("")
	held := c.held("")
	answers := []<-chan reply{held}
	for i := 1; i <= 3; i++ {
		answers = append(answers, c.begin(fmt.Sprintf("run: echo %d >> data/order; cat data/order", i)))
		eventually(t, waitLong, "the task waits", func() bool { return c.details().Queued == i })
	}
	c.letGo()
	var order, ends []string
	for _, answer := range answers {
		r := <-answer
		if r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
		order = append(order, r.TaskID)
		ends = append(ends, r.Text)
	}
	if diff := cmp.Diff([]string{"held", "1", "1\n2", "1\n2\n3"}, ends); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	var seen, positions []string
	for len(seen) < 2*len(order) {
		switch e := s.next(); e.Type {
		case "task_queued":
			positions = append(positions, fmt.Sprint(*e.Position))
		case "task_start", "task_complete":
			seen = append(seen, e.Type+" "+e.TaskID)
		}
	}
	var want []string
	for _, id := range order {
		want = append(want, "task_start "+id, "task_complete "+id)
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"0", "1", "2", "3"}, positions); diff != "" {
		t.Errorf("positions (-want +got):\n%s", diff)
	}
}

// testClientLeaves holds that a task needs nobody to wait for it.
func testClientLeaves(t *testing.T, d *deployment) {
	c := d.chat(t, "")
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	body := fmt.Sprintf(`{"sessionId":%q,"message":%q}`, c.id, hold(""))
	go func() {
		_, err := d.do(ctx, http.MethodPost, "/task", body)
		left <- err
	}()
	c.await("started")
	id := c.details().CurrentTask
	leave()
	if err := <-left; err == nil {
		t.Fatal("the client got an answer")
	}
	c.letGo()
	var done task
	eventually(t, waitLong, "the task has ended", func() bool {
		d.get(t, "/task/"+id, &done)
		return done.Status != "running"
	})
	if done.Status != "succeeded" || done.Text != "held" {
		t.Errorf("the task: %+v", done)
	}
}
