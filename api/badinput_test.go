package api_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestBadBody posts bodies that will not do to /task.
func TestBadBody(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ body, field, text string }{
		{``, "", "the body is empty"},
		{" \n ", "", "the body is empty"},
		{`{"sessionId":"s",`, "", "not JSON: line 1, column 17"},
		{"{\n  \"sessionId\": \"s\"\n  \"message\": \"m\"\n}", "", "line 3, column 3"},
		{`{"sessionId":"s","message":"m"} x`, "", "not JSON: line 1, column 33"},
		{`{"sessionId":"s","message":"m"}{}`, "", "not JSON: line 1, column 32"},
		{`sessionId=s&message=m`, "", "not JSON: line 1, column 1"},
		{"{\"sessionId\":\"s\",\n\"message\":\"a\xffb\"}", "", "not UTF-8: line 2, column 13"},
		{"\xef\xbb\xbf{}", "", "not JSON"},
		{`[]`, "", "want an object, got an array"},
		{`"s"`, "", "want an object, got a string"},
		{`null`, "", "want an object, got null"},
		{strings.Repeat("[", 20000), "", "not JSON"},
		{`{}`, "sessionId", "is required"},
		{`{"message":"m"}`, "sessionId", "is required"},
		{`{"sessionId":null,"message":"m"}`, "sessionId", "is required"},
		{`{"sessionId":"s"}`, "message", "is required"},
		{`{"sessionId":"s","message":" \n"}`, "message", "blank"},
		{`{"sessionId":5,"message":"m"}`, "sessionId", "want a string, got a number"},
		{`{"sessionId":"s","message":{"a":1}}`, "message", "want a string, got an object"},
		{`{"sessionId":"s","message":"m","context":true}`, "context", "want a string, got a boolean"},
		{`{"sessionId":"s","message":"m","agent":[]}`, "agent", "want a string, got an array"},
		{`{"sessionId":"s","message":"m","backend":1.5e3}`, "backend", "want a string, got a number"},
		{`{"sessionId":"s","message":"m","env":"A=1"}`, "env", "want an object of strings, got a string"},
		{`{"sessionId":"s","message":"m","env":{"A":1}}`, "env.A", "want a string, got a number"},
		{`{"sessionId":"s","message":"m","env":{"A":null}}`, "env.A", "want a string, got null"},
		{`{"sessionId":"s","message":"m","env":{"A":"1","A":"2"}}`, "A", "twice"},
		{`{"sessionId":"s","message":"m","env":{"A B":"1"}}`, "env", "no name of a variable"},
		{`{"sessionId":"s","message":"m","env":{"ANTHROPIC_BASE_URL":"http://evil.example"}}`, "env.ANTHROPIC_BASE_URL", "set by the runner"},
		{`{"sessionId":"s","message":"m","env":{"A":"\u0000"}}`, "env.A", "NUL"},
		{`{"sessionId":"s","message":"m","webhook":"https://example.com"}`, "", "webhook: want an object, got a string"},
		{`{"sessionId":"s","message":"m","webhook":{"url":5}}`, "webhook.url", "want a string, got a number"},
		{`{"sessionId":"s","message":"m","webhook":{"secrets":"x"}}`, "webhook.secrets", "did you mean webhook.secret?"},
		{`{"sessionId":"s","message":"m","webhook":{}}`, "webhook.url", "is missing"},
		{`{"sessionId":"s","message":"m","webhook":{"url":"https://example.com"}}`, "webhook.secret", "is missing"},
		{`{"sessionId":"s","message":"m","webhook":{"url":"http://127.0.0.1/","secret":"x"}}`, "webhook.url", "allow_private"},
		{`{"sessionId":"a","message":"m","sessionId":"b"}`, "sessionId", "twice"},
		{`{"sesionId":"s","message":"m"}`, "sesionId", "did you mean sessionId?"},
		{`{"SessionID":"s","message":"m"}`, "SessionID", "did you mean sessionId?"},
		{`{"sessionId":"s","message":"m","agnet":"x"}`, "agnet", "did you mean agent?"},
		{`{"sessionId":"s","message":"m","temperature":1}`, "temperature", "there are sessionId, message, context, agent, backend, env, async, webhook"},
		{`{"sessionId":"../etc","message":"m"}`, "sessionId", "will not do"},
		{`{"sessionId":"a/b","message":"m"}`, "sessionId", "will not do"},
		{`{"sessionId":".trash-1","message":"m"}`, "sessionId", "will not do"},
		{`{"sessionId":"s\u0000","message":"m"}`, "sessionId", "will not do"},
		{`{"sessionId":"` + strings.Repeat("x", 129) + `","message":"m"}`, "sessionId", "will not do"},
	} {
		name := c.body[:min(len(c.body), 60)]
		a := w.do(http.MethodPost, "/task", c.body)
		got := a.object(t)
		field, _ := got["field"].(string)
		if a.status != http.StatusBadRequest || got["code"] != "invalid_request" || field != c.field || !strings.Contains(got["error"].(string), c.text) {
			t.Errorf("%q: %d %s, want field %q and %q", name, a.status, a.body, c.field, c.text)
		}
		if len(a.body) > 1000 {
			t.Errorf("%q: an answer of %d bytes", name, len(a.body))
		}
	}
	if got := w.do(http.MethodGet, "/sessions", "").body; got != "[]" {
		t.Errorf("something came of it: %s", got)
	}
}

// TestLenientBody holds what is taken although it could be refused.
func TestLenientBody(t *testing.T) {
	w := newWorld(t)
	const body = `{"sessionId":"s","message":"echo hi","context":null,"agent":"","backend":null,"env":null}`
	for _, contentType := range []string{"application/json", "application/x-www-form-urlencoded", "text/plain", "", "multipart/form-data; boundary=x"} {
		if a := w.do(http.MethodPost, "/task", body, "Content-Type", contentType); a.status != http.StatusOK {
			t.Errorf("%q: %d %s", contentType, a.status, a.body)
		}
	}
}

// TestBadRequest sends requests that will not do beside their bodies.
func TestBadRequest(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		method, path, header string
		status               int
		code, field, text    string
	}{
		{"GET", "/", "", 404, "route_not_found", "", "GET /"},
		{"GET", "/nope", "", 404, "route_not_found", "", "/nope"},
		{"GET", "/session/", "", 404, "route_not_found", "", ""},
		{"GET", "/session/a/b", "", 404, "route_not_found", "", ""},
		{"GET", "/Sessions", "", 404, "route_not_found", "", ""},
		{"PUT", "/task", "", 405, "method_not_allowed", "", "PUT"},
		{"GET", "/task", "", 405, "method_not_allowed", "", ""},
		{"POST", "/sessions", "", 405, "method_not_allowed", "", ""},
		{"POST", "/stream/s", "", 405, "method_not_allowed", "", ""},
		{"OPTIONS", "/tasks", "", 405, "method_not_allowed", "", ""},
		{"GET", "/session/nobody", "", 404, "session_not_found", "", "nobody"},
		{"DELETE", "/session/nobody", "", 404, "session_not_found", "", ""},
		{"POST", "/session/nobody/reset", "", 404, "session_not_found", "", ""},
		{"POST", "/task/nobody/abort", "", 404, "session_not_found", "", ""},
		{"GET", "/task/nothing", "", 404, "task_not_found", "", "nothing"},
		{"GET", "/task/%2e%2e%2f", "", 404, "task_not_found", "", ""},
		{"DELETE", "/task/nothing", "", 404, "task_not_found", "", ""},
		{"GET", "/session/%2e%2e%2f", "", 400, "invalid_request", "sessionId", "../"},
		{"GET", "/session/..", "", 400, "invalid_request", "sessionId", ""},
		{"DELETE", "/session/%2e%2e%2fother", "", 400, "invalid_request", "sessionId", ""},
		{"POST", "/session/%00/reset", "", 400, "invalid_request", "sessionId", ""},
		{"POST", "/task/a%20b/abort", "", 400, "invalid_request", "sessionId", ""},
		{"GET", "/session/" + strings.Repeat("x", 5000), "", 400, "invalid_request", "sessionId", ""},
		{"GET", "/stream/-s", "", 400, "invalid_request", "sessionId", ""},
		{"GET", "/stream/s?after=x", "", 400, "invalid_request", "after", "seq"},
		{"GET", "/stream/s?after=-1", "", 400, "invalid_request", "after", ""},
		{"GET", "/stream/s", "", 426, "upgrade_required", "", "WebSocket"},
		{"GET", "/tasks?limit=abc", "", 400, "invalid_request", "limit", "1 to 500"},
		{"GET", "/tasks?limit=0", "", 400, "invalid_request", "limit", ""},
		{"GET", "/tasks?limit=501", "", 400, "invalid_request", "limit", ""},
		{"GET", "/tasks?limit=", "", 400, "invalid_request", "limit", ""},
		{"GET", "/tasks?limit=1&limit=2", "", 400, "invalid_request", "limit", "twice"},
		{"GET", "/tasks?status=nope", "", 400, "invalid_request", "status", "queued, starting, running, succeeded"},
		{"GET", "/tasks?sesionId=s", "", 400, "invalid_request", "sesionId", "did you mean sessionId?"},
		{"GET", "/tasks?sessionId=..", "", 400, "invalid_request", "sessionId", ""},
		{"GET", "/tasks?cursor=abc", "", 400, "invalid_request", "cursor", ""},
		{"GET", "/tasks?a=%zz", "", 400, "invalid_request", "", "percent"},
		{"POST", "/task", "Content-Encoding: gzip", 415, "unsupported_encoding", "", "gzip"},
		{"GET", "/sessions?" + strings.Repeat("x", 20000), "", 431, "headers_too_large", "", "16 KiB"},
		{"GET", "/sessions", "X: " + strings.Repeat("x", 20000), 431, "headers_too_large", "", ""},
	} {
		var headers []string
		if name, value, ok := strings.Cut(c.header, ": "); ok {
			headers = []string{name, value}
		}
		name := c.method + " " + c.path[:min(len(c.path), 60)]
		a := w.do(c.method, c.path, "", headers...)
		got := a.object(t)
		field, _ := got["field"].(string)
		if a.status != c.status || got["code"] != c.code || field != c.field || !strings.Contains(got["error"].(string), c.text) {
			t.Errorf("%s: %d %s, want %d %s %q %q", name, a.status, a.body, c.status, c.code, c.field, c.text)
		}
		if a.header.Get("X-Request-Id") == "" || len(a.body) > 1000 {
			t.Errorf("%s: %v, %d bytes", name, a.header, len(a.body))
		}
		if c.status == http.StatusMethodNotAllowed && a.header.Get("Allow") == "" {
			t.Errorf("%s: no Allow header", name)
		}
	}
	if a := w.do(http.MethodHead, "/session/nobody", ""); a.status != http.StatusNotFound || a.body != "" {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
	if a := w.do(http.MethodHead, "/sessions", ""); a.status != http.StatusOK || a.body != "" {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
}

// TestBodyLimit holds that a body over the limit gets its 413, however it is
// sent, and that one of exactly the limit is read.
func TestBodyLimit(t *testing.T) {
	const limit = 10000
	w := newWorld(t, func(s *setup) { s.api.BodyLimit = limit })
	body := func(size int) string {
		frame := task("s", "echo ")
		return task("s", "echo "+strings.Repeat("x", size-len(frame)))
	}
	chunked := func(size int) *http.Request {
		r, err := http.NewRequest(http.MethodPost, w.url+"/task", io.MultiReader(strings.NewReader(body(size)))) // of no known length
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for name, size := range map[string]int{"the limit": limit, "one more": limit + 1, "twice as much": 2 * limit, "4 MiB": 4 << 20} {
		want := http.StatusOK
		if size > limit {
			want = http.StatusRequestEntityTooLarge
		}
		a := w.do(http.MethodPost, "/task", body(size))
		if a.status != want || want != http.StatusOK && a.object(t)["code"] != "body_too_large" {
			t.Errorf("%s: %d %.200s", name, a.status, a.body)
		}
		resp, err := w.client.Do(chunked(size))
		if err != nil {
			t.Fatalf("%s, chunked: %v", name, err)
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want {
			t.Errorf("%s, chunked: %d %.200s %v", name, resp.StatusCode, data, err)
		}
	}
}

// raw sends bytes, and returns the answers that come until the server closes
// the connection.
func raw(t testing.TB, addr, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("%.100q: %v after %q", request, err, data)
	}
	return string(data)
}

// TestNotHTTP sends what a well-meant HTTP client could not.
func TestNotHTTP(t *testing.T) {
	w := newWorld(t)
	const end = " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	for request, want := range map[string]string{
		"BREW /task" + end:             "405",
		"get /health" + end:            "405",
		"GET /session/%" + end:         "400",
		"GET /session/%zz" + end:       "400",
		"GET //evil/../sessions" + end: "404",
		"GET /health HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer 8675309\r\nbad header : x\r\n\r\n": "400",
		"nonsense\r\n\r\n": "400",
		"POST /task HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n":                           "400",
		"POST /task HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n[1,2]": "400",
	} {
		got := raw(t, w.addr, request)
		got = strings.TrimPrefix(got, "HTTP/1.1 100 Continue\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
		if err != nil {
			t.Errorf("%.60q: %v in %q", request, err, got)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.HasPrefix(resp.Status, want) || !bytes.HasPrefix(body, []byte(`{"error":"`)) {
			t.Errorf("%.60q: %s %q, %v, want %s", request, resp.Status, body, err, want)
		}
		if strings.Contains(got+w.logs.String(), "8675309") {
			t.Errorf("%.60q: a header is shown: %q", request, got)
		}
	}
}

// TestPipeline holds that what nobody reads of a body is not taken for the
// connection's next request.
func TestPipeline(t *testing.T) {
	w := newWorld(t)
	inner := "DELETE /session/victim HTTP/1.1\r\nHost: localhost\r\n\r\n"
	w.post("victim", "echo hi")
	for _, first := range []string{
		fmt.Sprintf("GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner),
		fmt.Sprintf("POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(inner), inner),
	} {
		got := raw(t, w.addr, first+"GET /sessions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if n := strings.Count(got, "HTTP/1.1 "); n != 2 || !strings.Contains(got, `"sessionId":"victim"`) {
			t.Errorf("%.20q: %d answers: %s", first, n, got)
		}
	}
}
