package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/api/apitest"
)

func TestAsynchronousTask(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		headers    []string
	}{
		{"by the header", task("s", "echo hello"), []string{"Prefer", "wait=10, Respond-Async"}},
		{"by the field", strings.Replace(task("s", "echo hello"), "{", `{"async": true, `, 1), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			a := w.do(http.MethodPost, "/task", tt.body, tt.headers...)
			got := a.object(t)
			id, _ := got["taskId"].(string)
			if a.status != http.StatusAccepted || a.header.Get("Location") != "/task/"+id || id == "" {
				t.Fatalf("%d, Location %q: %s", a.status, a.header.Get("Location"), a.body)
			}
			done := w.get("/task/" + id + "?wait=30s")
			if done["status"] != "succeeded" || done["text"] != "hello" {
				t.Errorf("after waiting: %v", done)
			}
		})
	}
}

func TestWaitForTask(t *testing.T) {
	w := newWorld(t)
	held := w.held("s")
	id := w.get("/session/s")["currentTask"].(string)
	if got := w.get("/task/" + id + "?wait=10ms"); got["status"] != "running" {
		t.Errorf("a task that goes on: %v", got["status"])
	}
	waiting := make(chan map[string]any, 1)
	go func() { waiting <- w.get("/task/" + id + "?wait=1m") }()
	w.letGo("s")
	<-held
	if got := <-waiting; got["status"] != "succeeded" {
		t.Errorf("who waited is told %v", got)
	}
	if got := w.get("/task/" + id + "?wait=1m"); got["status"] != "succeeded" {
		t.Errorf("a task that has ended: %v", got)
	}
	for path, status := range map[string]int{
		"/task/none?wait=1m":       http.StatusNotFound,
		"/task/" + id + "?wait=1h": http.StatusBadRequest,
		"/task/" + id + "?wait=5":  http.StatusBadRequest,
		"/task/" + id + "?wiat=5s": http.StatusBadRequest,
	} {
		if a := w.do(http.MethodGet, path, ""); a.status != status {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	w := newWorld(t)
	key := []string{"Idempotency-Key", "order-1"}
	held := w.held("first") // the queue moves on while a task runs
	body := task("s", "echo x >> runs; cat runs")
	running := task("first", "echo again")

	one, two := w.do(http.MethodPost, "/task", body, key...), w.do(http.MethodPost, "/task", body, key...)
	if one.status != http.StatusOK || one.body != two.body {
		t.Errorf("the same key gave %d %s\nand then %d %s", one.status, one.body, two.status, two.body)
	}
	both := make(chan answer, 2)
	for range 2 { // while the first one waits
		go func() { both <- w.do(http.MethodPost, "/task", running, "Idempotency-Key", "order-2") }()
	}
	w.queued("first", 1)
	w.letGo("first")
	<-held
	if a, b := <-both, <-both; a.object(t)["taskId"] != b.object(t)["taskId"] || a.object(t)["text"] != "again" {
		t.Errorf("two at once: %s\nand %s", a.body, b.body)
	}
	for _, tt := range []struct {
		key, body string
		status    int
		code      string
	}{
		{"order-1", task("s", "echo other"), http.StatusUnprocessableEntity, "idempotency_key_reused"},
		{"order-1", task("other", "echo x >> runs; cat runs"), http.StatusUnprocessableEntity, "idempotency_key_reused"},
		{"has a space", body, http.StatusBadRequest, "invalid_request"},
		{strings.Repeat("k", 256), body, http.StatusBadRequest, "invalid_request"},
	} {
		if a := w.do(http.MethodPost, "/task", tt.body, "Idempotency-Key", tt.key); a.status != tt.status || a.object(t)["code"] != tt.code {
			t.Errorf("key %.20q: %d %s", tt.key, a.status, a.body)
		}
	}
}

func TestEventsPages(t *testing.T) {
	w := newWorld(t)
	w.post("s", "echo one; echo two")
	whole := w.get("/session/s/events")
	all := whole["events"].([]any)
	if len(all) < 5 || whole["more"] != false || whole["next"] != float64(len(all)) {
		t.Fatalf("events: %v", whole)
	}
	var paged []any
	for after := 0.; ; {
		page := w.get("/session/s/events?limit=2&after=" + number(after))
		paged = append(paged, page["events"].([]any)...)
		if after = page["next"].(float64); page["more"] == false {
			break
		}
	}
	if diff := cmp.Diff(all, paged); diff != "" {
		t.Errorf("in pages (-whole +paged):\n%s", diff)
	}
	// An event is gone: what is left says where it begins.
	if _, err := w.store.PruneEvents(context.Background(), time.Now(), 2); err != nil {
		t.Fatal(err)
	}
	w.post("s", "echo three")
	if got := w.get("/session/s/events?after=1"); got["resync"] != float64(len(all)+1) {
		t.Errorf("behind a hole: %v", got)
	}
	for path, status := range map[string]int{
		"/session/none/events":        http.StatusNotFound,
		"/session/s/events?after=x":   http.StatusBadRequest,
		"/session/s/events?limit=0":   http.StatusBadRequest,
		"/session/s/events?limit=1e9": http.StatusBadRequest,
	} {
		if a := w.do(http.MethodGet, path, ""); a.status != status {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func number(f float64) string {
	text, _ := json.Marshal(f)
	return string(text)
}

func TestUsageByGroup(t *testing.T) {
	w := newWorld(t)
	w.post("a", "echo")
	w.post("a", "echo")
	w.post("b", "echo")
	var got []map[string]any
	if err := json.Unmarshal([]byte(w.do(http.MethodGet, "/usage?group_by=session&from=2020-01-01", "").body), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0]["group"] != "a" || got[0]["tasks"] != 2. || got[1]["tasks"] != 1. {
		t.Errorf("usage: %v", got)
	}
	for _, query := range []string{"group_by=colour", "from=yesterday", "to=1", "by=agent"} {
		if a := w.do(http.MethodGet, "/usage?"+query, ""); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
}

func TestReadiness(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/livez", "/readyz"} {
		if got := w.get(path); got["status"] != "ok" {
			t.Errorf("%s: %v", path, got)
		}
	}
	held := w.held("s")
	closed := make(chan error, 1)
	go func() { closed <- w.manager.Close(context.Background()) }()
	eventually(t, "the runner is not ready", func() bool {
		return w.do(http.MethodGet, "/readyz", "").status == http.StatusServiceUnavailable
	})
	if got := w.get("/livez"); got["status"] != "ok" {
		t.Errorf("/livez while the runner closes: %v", got)
	}
	w.letGo("s")
	<-held
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// serverSent reads server-sent events as a browser does.
type serverSent struct {
	t    *testing.T
	in   *bufio.Scanner
	id   string
	data []map[string]any
}

// next reads up to the next event.
func (e *serverSent) next() map[string]any {
	e.t.Helper()
	for e.in.Scan() {
		if id, ok := strings.CutPrefix(e.in.Text(), "id: "); ok {
			e.id = id
		}
		if data, ok := strings.CutPrefix(e.in.Text(), "data: "); ok {
			var v map[string]any
			if err := json.Unmarshal([]byte(data), &v); err != nil {
				e.t.Fatal(err)
			}
			apitest.CheckSchema(e.t, "StreamEvent", []byte(data))
			e.data = append(e.data, v)
			return v
		}
	}
	e.t.Fatalf("the stream ended behind %v: %v", e.data, e.in.Err())
	return nil
}

func (w *world) events(t *testing.T, headers ...string) (*serverSent, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/stream/s", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	apitest.Check(t, req, resp.StatusCode, resp.Header, nil)
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("%d, %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	return &serverSent{t: t, in: bufio.NewScanner(resp.Body)}, cancel
}

func TestServerSentEvents(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.api.StreamPing = 20 * time.Millisecond })
	first, leave := w.events(t)
	if e := first.next(); e["type"] != "connected" || first.id != "" {
		t.Errorf("the stream begins with %v", e)
	}
	w.post("s", "echo hello")
	for first.next()["type"] != "task_complete" {
	}
	last := first.id
	leave()
	w.post("s", "echo missed")

	again, _ := w.events(t, "Last-Event-ID", last)
	if e := again.next(); e["type"] != "connected" {
		t.Errorf("the stream begins again with %v", e)
	}
	if e := again.next(); e["type"] != "task_queued" || number(e["seq"].(float64)-1) != last {
		t.Errorf("behind event %s comes %v", last, e)
	}
	for again.next()["type"] != "task_complete" {
	}
	// Comments keep an idle stream open.
	for again.in.Scan() && again.in.Text() != ": ping" {
	}
	if again.in.Err() != nil {
		t.Error(again.in.Err())
	}
	if a := w.do(http.MethodGet, "/stream/s", "", "Accept", "text/event-stream", "Last-Event-ID", "x"); a.status != http.StatusBadRequest {
		t.Errorf("a bad Last-Event-ID: %d %s", a.status, a.body)
	}
}

func TestStreamTellsOfAHole(t *testing.T) {
	w := newWorld(t)
	w.post("s", "echo one")
	n := len(w.get("/session/s/events")["events"].([]any))
	if _, err := w.store.PruneEvents(context.Background(), time.Now(), 0); err != nil {
		t.Fatal(err)
	}
	w.post("s", "echo two")
	c, _ := w.open("/stream/s?after=1")
	e := c.next()
	if e.Type != "resync" || e.Seq != int64(n)+1 {
		t.Errorf("behind the greeting comes %+v, want a resync to %d", e, n+1)
	}
	if e := c.next(); e.Type != "task_queued" || e.Seq != int64(n)+1 {
		t.Errorf("behind the hole comes %+v", e)
	}
}
