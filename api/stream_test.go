package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/api/apitest"
)

// event is what the tests look at of an event.
type event struct {
	Type      string `json:"type"`
	SessionID string `json:"sessionId"`
	TaskID    string `json:"taskId"`
	Seq       int64  `json:"seq"`
	Text      string `json:"text"`
	Busy      bool   `json:"busy"`
	Turns     int    `json:"turns"`
}

// client is one end of a stream.
type client struct {
	t    testing.TB
	conn *websocket.Conn
	raw  []string // all messages but connected
}

// open opens a stream and reads its first event.
func (w *world) open(path string) (*client, event) {
	w.t.Helper()
	c := w.dial(path)
	first := c.next()
	if first.Type != "connected" {
		w.t.Fatalf("the first event is %+v", first)
	}
	c.raw = nil
	return c, first
}

func (w *world) dial(path string) *client {
	w.t.Helper()
	conn, resp, err := websocket.DefaultDialer.DialContext(w.t.Context(), "ws://"+w.addr+path, w.header())
	if err != nil {
		w.t.Fatalf("open %s: %v", path, err)
	}
	apitest.Check(w.t, resp.Request, resp.StatusCode, resp.Header, nil)
	w.t.Cleanup(func() { conn.Close() })
	return &client{t: w.t, conn: conn}
}

func (w *world) header() http.Header {
	h := http.Header{}
	if w.key != "" {
		h.Set("Authorization", "Bearer "+w.key)
	}
	return h
}

// next returns the next event.
func (c *client) next() event {
	c.t.Helper()
	var e event
	data, err := c.read()
	if err == nil {
		err = json.Unmarshal(data, &e)
	}
	if err != nil {
		c.t.Fatalf("read event: %v after %q", err, c.raw)
	}
	apitest.CheckSchema(c.t, "StreamEvent", data)
	c.raw = append(c.raw, string(data))
	return e
}

func (c *client) read() ([]byte, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	_, data, err := c.conn.ReadMessage()
	return data, err
}

// until reads up to the next event of a type, and returns the types on the way.
func (c *client) until(last string) []string {
	c.t.Helper()
	for types := []string{}; ; {
		e := c.next()
		if types = append(types, e.Type); e.Type == last {
			return types
		}
	}
}

// ends reads on until the stream is closed, and returns how.
func (c *client) ends() *websocket.CloseError {
	c.t.Helper()
	for {
		if _, err := c.read(); err != nil {
			var closed *websocket.CloseError
			if !errors.As(err, &closed) {
				c.t.Fatalf("the stream ended without a word: %v", err)
			}
			return closed
		}
	}
}

func TestStream(t *testing.T) {
	w := newWorld(t)
	c, connected := w.open("/stream/s") // no such session yet
	if diff := cmp.Diff(event{Type: "connected", SessionID: "s"}, connected); diff != "" {
		t.Errorf("connected (-want +got):\n%s", diff)
	}
	done := w.post("s", "echo one; echo two").object(t)
	want := []string{"task_queued", "task_start", "init", "text", "text", "task_complete"}
	if diff := cmp.Diff(want, c.until("task_complete")); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	stored, err := w.store.Events(t.Context(), "s", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for i, r := range stored {
		var e event
		if err := json.Unmarshal(r.Data, &e); err != nil || e.Seq != int64(i+1) || e.TaskID != done["taskId"] || e.SessionID != "s" {
			t.Errorf("event %d is %s, %v", i, r.Data, err)
		}
		all = append(all, string(r.Data))
	}
	if diff := cmp.Diff(all, c.raw); diff != "" {
		t.Errorf("what was sent is not what is stored:\n%s", diff)
	}

	for query, from := range map[string]int{"?after=0": 0, "?after=2": 2, "?after=6": 6, "?after=999": 0} {
		late, connected := w.open("/stream/s" + query)
		if connected.Seq != int64(from) || connected.Turns != 1 {
			t.Errorf("%s: %+v", query, connected)
		}
		for range all[from:] {
			late.next()
		}
		if diff := cmp.Diff(append([]string(nil), all[from:]...), late.raw); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
}

func TestStreamOfBusySession(t *testing.T) {
	w := newWorld(t)
	held := w.held("s")
	c, connected := w.open("/stream/s")
	if !connected.Busy || connected.Seq == 0 {
		t.Errorf("connected: %+v", connected)
	}
	w.do(http.MethodPost, "/task/s/abort", "")
	for last := connected.Seq; ; last++ {
		got := c.next() // init may come first: the agent was at work before it was told
		if got.Seq != last+1 || got.Type != "abort" && got.Type != "init" {
			t.Errorf("event %d is followed by %+v", last, got)
		}
		if got.Type == "abort" {
			break
		}
	}
	<-held
}

// TestStreamRefused holds that a stream that can't be is refused before it is
// a WebSocket, in the one shape of errors.
func TestStreamRefused(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.api.APIKeys = []agent.Secret{"key"} })
	for name, c := range map[string]struct {
		path    string
		header  http.Header
		status  int
		message string
	}{
		"no key":         {"/stream/s", nil, 401, "Authorization"},
		"wrong key":      {"/stream/s", http.Header{"Authorization": {"Bearer x"}}, 401, "Authorization"},
		"foreign page":   {"/stream/s", http.Header{"Origin": {"http://evil.example"}, "Authorization": {"Bearer key"}}, 403, "evil.example"},
		"invalid id":     {"/stream/%2e%2e", w.header(), 400, "sessionId"},
		"invalid after":  {"/stream/s?after=x", w.header(), 400, "after"},
		"another route":  {"/streams/s", w.header(), 404, "streams"},
		"old websockets": {"/stream/s", http.Header{"Authorization": {"Bearer key"}, "Sec-Websocket-Version": {"7"}}, 426, "version 13"},
	} {
		var conn *websocket.Conn
		var resp *http.Response
		var err error
		if name == "old websockets" { // the dialer knows no other version
			c.header.Set("Connection", "Upgrade")
			c.header.Set("Upgrade", "websocket")
			a := w.do(http.MethodGet, c.path, "", "Connection", "Upgrade", "Upgrade", "websocket", "Sec-Websocket-Version", "7", "Sec-Websocket-Key", "x")
			if a.status != c.status || a.object(t)["code"] != "upgrade_required" || a.header.Get("Sec-Websocket-Version") != "13" || a.header.Get("X-Request-Id") == "" {
				t.Errorf("%s: %d %v %s", name, a.status, a.header, a.body)
			}
			continue
		}
		conn, resp, err = websocket.DefaultDialer.DialContext(t.Context(), "ws://"+w.addr+c.path, c.header)
		if err == nil {
			conn.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		body := make([]byte, 1000)
		n, _ := resp.Body.Read(body)
		if resp.StatusCode != c.status || !strings.HasPrefix(string(body[:n]), `{"error":"`) || !strings.Contains(string(body[:n]), c.message) {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body[:n])
		}
	}
	c, _ := w.open("/stream/s")
	c.conn.Close()
}

// TestStreamPing holds that a client that answers pings stays, and that one
// that does not is let go.
func TestStreamPing(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.api.StreamPing = 1500 * time.Millisecond })
	alive, _ := w.open("/stream/s")
	var pings atomic.Int32
	answer := alive.conn.PingHandler()
	enough := make(chan struct{})
	alive.conn.SetPingHandler(func(data string) error {
		if pings.Add(1) == 3 {
			close(enough)
		}
		return answer(data)
	})
	dead, _ := w.open("/stream/s")
	dead.conn.SetPingHandler(func(string) error { return nil })

	complete := make(chan []string, 1)
	go func() {
		defer close(complete) // also where it fails
		complete <- alive.until("task_complete")
	}()
	if closed := dead.ends(); closed.Code != websocket.ClosePolicyViolation || closed.Text != "no answer to pings" {
		t.Errorf("the dead client's end: %v", closed)
	}
	<-enough
	w.post("s", "echo hi")
	if got := <-complete; len(got) != 5 {
		t.Errorf("the living client got %v", got)
	}
}

// TestStreamSlowClient holds that a client that reads nothing holds up neither
// the task nor another client, and is let go.
func TestStreamSlowClient(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.api.StreamPatience = 8 * time.Second })
	slow := w.dial("/stream/s")
	fast, _ := w.open("/stream/s")
	const lines, width = 300, 60000 // 18 MB: more than the sockets hold
	complete := make(chan []string, 1)
	go func() {
		defer close(complete) // also where it fails
		complete <- fast.until("task_complete")
	}()
	message := fmt.Sprintf(`x=$(head -c %d /dev/zero | tr '\0' x); i=0; while [ $i -lt %d ]; do echo "noise$x"; i=$((i+1)); done`, width, lines)
	if a := w.post("s", message); a.status != http.StatusOK {
		t.Fatalf("%d %.200s", a.status, a.body)
	}
	if got := <-complete; len(got) != lines+4 {
		t.Errorf("the fast client got %d events, want %d", len(got), lines+4)
	}
	eventually(t, "the slow client is let go", func() bool { return strings.Contains(w.logs.String(), `"msg":"stream ended"`) })
	n := 0
	for ; ; n++ {
		if _, err := slow.read(); err != nil {
			break
		}
	}
	if n == 0 || n >= lines {
		t.Errorf("the slow client got %d of the events", n)
	}
}

// TestStreamRudeClients holds that whatever a client sends ends its own stream
// at most.
func TestStreamRudeClients(t *testing.T) {
	w := newWorld(t)
	good, _ := w.open("/stream/s")
	huge, _ := w.open("/stream/s")
	if err := huge.conn.WriteMessage(websocket.TextMessage, make([]byte, 1<<20)); err != nil {
		t.Logf("the server has closed before all was sent: %v", err)
	}
	garbage, _ := w.open("/stream/s")
	if _, err := garbage.conn.NetConn().Write([]byte("\xff\xff\xff\xff nonsense")); err != nil {
		t.Fatal(err)
	}
	if closed := garbage.ends(); closed.Code != websocket.CloseProtocolError && closed.Code != websocket.CloseAbnormalClosure {
		t.Errorf("garbage: %v", closed)
	}
	vanished, _ := w.open("/stream/s")
	vanished.conn.NetConn().Close()
	polite, _ := w.open("/stream/s")
	if err := polite.conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")); err != nil {
		t.Fatal(err)
	}
	if closed := polite.ends(); closed.Code != websocket.CloseNormalClosure {
		t.Errorf("polite: %v", closed)
	}
	for range 3 {
		if err := good.conn.WriteMessage(websocket.TextMessage, []byte("hello?")); err != nil {
			t.Fatal(err)
		}
	}
	w.post("s", "echo hi")
	if got := good.until("task_complete"); len(got) != 5 {
		t.Errorf("the good client got %v", got)
	}
}

func TestStreamOfDeletedSession(t *testing.T) {
	w := newWorld(t)
	w.post("s", "echo hi")
	c, _ := w.open("/stream/s")
	w.do(http.MethodDelete, "/session/s", "")
	if closed := c.ends(); closed.Code != websocket.CloseNormalClosure || closed.Text != "the session was deleted" {
		t.Errorf("%v", closed)
	}
	if _, connected := w.open("/stream/s?after=5"); connected.Seq != 0 || connected.Turns != 0 {
		t.Errorf("a new session of that name: %+v", connected)
	}
}

// TestManyStreams holds that each of many clients gets every event of its
// session, in order.
func TestManyStreams(t *testing.T) {
	w := newWorld(t)
	const sessions, clients = 4, 50
	var streams []*client
	for i := range sessions {
		for range clients {
			c, _ := w.open(fmt.Sprintf("/stream/s%d", i))
			streams = append(streams, c)
		}
	}
	var readers sync.WaitGroup
	for i, c := range streams {
		readers.Go(func() {
			for seq := int64(1); ; seq++ {
				e := event{}
				data, err := c.read()
				if err == nil {
					err = json.Unmarshal(data, &e)
				}
				if err != nil || e.Seq != seq || e.SessionID != fmt.Sprintf("s%d", i/clients) {
					t.Errorf("client %d: event %d is %s, %v", i, seq, data, err)
					return
				}
				if e.Type == "task_complete" {
					if seq != 54 {
						t.Errorf("client %d: the last event is %d", i, seq)
					}
					return
				}
			}
		})
	}
	var posts []<-chan answer
	for i := range sessions {
		posts = append(posts, w.background(fmt.Sprintf("s%d", i), "i=0; while [ $i -lt 50 ]; do echo line $i; i=$((i+1)); done"))
	}
	for _, p := range posts {
		if a := <-p; a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	readers.Wait()
}
