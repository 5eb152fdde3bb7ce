package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"claude-runner/api/apitest"
)

// reply is what the server answers to a request.
type reply struct {
	status int
	header http.Header
	body   string
	task   // where the body is one's
}

// task is a task on the wire.
type task struct {
	TaskID      string          `json:"taskId"`
	SessionID   string          `json:"sessionId"`
	Agent       string          `json:"agent"`
	Backend     string          `json:"backend"`
	Status      string          `json:"status"`
	Output      json.RawMessage `json:"output"`
	OutputError string          `json:"output_error"`
	Response    string          `json:"response"`
	Text        string          `json:"text"`
	Error       string          `json:"error"`
	Code        string          `json:"code"`
	Field       string          `json:"field"`
	Cost        float64         `json:"cost"`
	Duration    int64           `json:"duration"`
	Tools       []string        `json:"tools"`
	Resumed     bool            `json:"resumed"`
	Model       string          `json:"model"`
	Turns       int             `json:"turns"`
	Warnings    []string        `json:"warnings"`
}

// do sends a request and returns its answer, whatever that is, as long as the
// API's description has it.
func (p *program) do(ctx context.Context, method, path, body string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.base+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil {
		apitest.Check(p.t, req, resp.StatusCode, resp.Header, data)
	}
	r := reply{status: resp.StatusCode, header: resp.Header, body: string(data)}
	_ = json.Unmarshal(data, &r.task) // of another form: the fields stay empty
	return r, err
}

// get returns the JSON at path in out, a pointer.
func (p *program) get(t testing.TB, path string, out any) {
	t.Helper()
	r, err := p.do(context.Background(), http.MethodGet, path, "")
	if err != nil || r.status != http.StatusOK {
		t.Fatalf("GET %s: %d %s %v", path, r.status, r.body, err)
	}
	if err := json.Unmarshal([]byte(r.body), out); err != nil {
		t.Fatalf("GET %s: %v in %s", path, err, r.body)
	}
}

// chat is one session, as the test's user has it.
type chat struct {
	t  testing.TB
	p  *program
	id string
	// defaults are the fields of each POST /task beside sessionId and message.
	defaults map[string]any
}

var noIDCharacter = regexp.MustCompile(`[^A-Za-z0-9]+`)

// chat opens a session that is named after the test, with an agent ("" for the
// default).
func (p *program) chat(t testing.TB, agent string) *chat {
	c := &chat{t: t, p: p, id: strings.Trim(noIDCharacter.ReplaceAllString(t.Name(), "-"), "-"), defaults: map[string]any{}}
	if agent != "" {
		c.defaults["agent"] = agent
		c.id += "." + agent
	}
	return c
}

// other is another session of the same user.
func (c *chat) other(name string) *chat {
	o := *c
	o.id, o.defaults = c.id+"."+name, maps.Clone(c.defaults)
	return &o
}

// with is the same session, with more fields in each request.
func (c *chat) with(field string, value any) *chat {
	o := *c
	o.defaults = maps.Clone(c.defaults)
	o.defaults[field] = value
	return &o
}

// as is the same session, of another test.
func (c *chat) as(t testing.TB) *chat {
	o := *c
	o.t = t
	return &o
}

// send posts a message and returns the answer to the task, however it ends.
func (c *chat) send(message string) reply {
	c.t.Helper()
	r, err := c.try(message)
	if err != nil {
		c.t.Fatalf("POST /task: %v", err)
	}
	return r
}

func (c *chat) try(message string) (reply, error) {
	fields := maps.Clone(c.defaults)
	fields["sessionId"], fields["message"] = c.id, message
	body, err := json.Marshal(fields)
	if err != nil {
		return reply{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute) // longer than any agent's timeout
	defer cancel()
	return c.p.do(ctx, http.MethodPost, "/task", string(body))
}

// ask posts a message whose task must succeed.
func (c *chat) ask(message string) reply {
	c.t.Helper()
	r := c.send(message)
	if r.status != http.StatusOK || r.Status != "succeeded" {
		c.t.Fatalf("%s: %q: %d %s", c.id, message, r.status, r.body)
	}
	return r
}

// fail posts a message whose task must fail so.
func (c *chat) fail(message string, status int, code string) reply {
	c.t.Helper()
	r := c.send(message)
	r.want(c.t, status, code)
	return r
}

// want holds an error against its status and code.
func (r reply) want(t testing.TB, status int, code string) {
	t.Helper()
	if r.status != status || r.Code != code || r.Error == "" {
		t.Fatalf("got %d %s, want %d with code %s", r.status, r.body, status, code)
	}
}

// begin posts a message; the answer comes through the channel.
func (c *chat) begin(message string) <-chan reply {
	out := make(chan reply, 1)
	go func() {
		r, err := c.try(message)
		if err != nil {
			c.t.Errorf("POST /task: %v", err)
		}
		out <- r
	}()
	return out
}

// hold is a message whose tool runs until letGo. It is told apart from others
// by more, which is in the tool's command line.
func hold(more string) string {
	return "run: echo > started; : " + more + "; while [ ! -e go ]; do sleep 0.05; done; echo held"
}

// held begins a task whose tool runs until letGo, and waits until it does.
func (c *chat) held(more string) <-chan reply {
	c.t.Helper()
	out := c.begin(hold(more))
	c.await("started")
	return out
}

// await waits until the session's tool has made a file.
func (c *chat) await(file string) {
	c.t.Helper()
	eventually(c.t, time.Minute, c.id+" has made "+file, func() bool {
		_, err := os.Lstat(c.p.workspace(c.id, file))
		return err == nil
	})
}

func (c *chat) letGo() {
	c.t.Helper()
	if err := os.WriteFile(c.p.workspace(c.id, "go"), nil, 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// call sends a request about the session that must succeed, such as
// "POST /session/ID/reset".
func (c *chat) call(method, path string) reply {
	c.t.Helper()
	path = strings.ReplaceAll(path, "ID", c.id)
	r, err := c.p.do(context.Background(), method, path, "")
	if err != nil || r.status != http.StatusOK {
		c.t.Fatalf("%s %s: %d %s %v", method, path, r.status, r.body, err)
	}
	return r
}

// details is a session on the wire.
type details struct {
	SessionID   string  `json:"sessionId"`
	Agent       string  `json:"agent"`
	State       string  `json:"state"`
	Busy        bool    `json:"busy"`
	Queued      int     `json:"queued"`
	CurrentTask string  `json:"currentTask"`
	Turns       int     `json:"turns"`
	Cost        float64 `json:"cost"`
}

func (c *chat) details() details {
	c.t.Helper()
	var d details
	c.p.get(c.t, "/session/"+c.id, &d)
	return d
}

// event is an event of a stream, and how it was sent.
type event struct {
	Type           string          `json:"type"`
	Seq            int64           `json:"seq"`
	TaskID         string          `json:"taskId"`
	Text           string          `json:"text"`
	Model          string          `json:"model"`
	Backend        string          `json:"backend"`
	AgentSessionID string          `json:"agentSessionId"`
	Tool           string          `json:"tool"`
	Tools          []string        `json:"tools"`
	Input          json.RawMessage `json:"input"`
	Result         string          `json:"result"`
	Output         json.RawMessage `json:"output"`
	Cost           float64         `json:"cost"`
	Code           string          `json:"code"`
	Position       *int            `json:"position"`
	Status         struct {
		Phase   string `json:"phase"`
		Attempt int    `json:"attempt"`
	} `json:"status"`
	raw string
}

// stream is a session's events as a client sees them.
type stream struct {
	t    testing.TB
	conn *websocket.Conn
	read chan []byte // closed at the stream's end, which err tells
	err  error
	seen []event
}

// stream connects to the session's stream; query may be "?after=0".
func (c *chat) stream(query string) *stream {
	c.t.Helper()
	address := "ws" + strings.TrimPrefix(c.p.base, "http") + "/stream/" + c.id + query
	conn, resp, err := websocket.DefaultDialer.Dial(address, nil)
	if err != nil {
		c.t.Fatalf("open stream: %v", err)
	}
	resp.Body.Close()
	c.t.Cleanup(func() { conn.Close() })
	s := &stream{t: c.t, conn: conn, read: make(chan []byte, 10000)}
	go func() { // all the while, since a client that does not read answers no pings
		defer close(s.read)
		for {
			_, data, err := conn.ReadMessage()
			if err != nil {
				s.err = err
				return
			}
			s.read <- data
		}
	}()
	if first := s.next(); first.Type != "connected" {
		c.t.Fatalf("the stream begins with %s", first.raw)
	}
	return s
}

func (s *stream) next() event {
	s.t.Helper()
	var data []byte
	select {
	case d, ok := <-s.read:
		if !ok {
			s.t.Fatalf("read stream after %s: %v", kindsOf(s.seen), s.err)
		}
		data = d
	case <-time.After(time.Minute):
		s.t.Fatalf("the stream says nothing for a minute after %s", kindsOf(s.seen))
	}
	apitest.CheckSchema(s.t, "StreamEvent", data)
	e := event{raw: string(data)}
	if err := json.Unmarshal(data, &e); err != nil {
		s.t.Fatalf("event %s: %v", data, err)
	}
	s.seen = append(s.seen, e)
	return e
}

// until reads on to the next event of a type.
func (s *stream) until(kind string) event {
	s.t.Helper()
	for {
		if e := s.next(); e.Type == kind {
			return e
		}
	}
}

// waits reports whether the event says that other agents boot first: who tests
// side by side may see it.
func (e event) waits() bool { return e.Type == "status" && e.Status.Phase == "boot" }

// kindsOf lists the types of events, those in a row as one.
func kindsOf(events []event) string {
	var b bytes.Buffer
	last := ""
	for _, e := range events {
		if e.Type != last {
			fmt.Fprintf(&b, "%s ", e.Type)
		}
		last = e.Type
	}
	return strings.TrimSpace(b.String())
}
