package gateway_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"claude-runner/agent/gateway"
	"claude-runner/agent/scripted"
)

func TestLargeRequests(t *testing.T) {
	_, url := upstream(t, greeting, scripted.Options{})
	_, client := open(t, lease(t, url), gateway.Options{})
	huge := append([]byte(`{"model":"claude-sonnet-4-6","x":"`), make([]byte, 65<<20)...)
	if response, text := do(t, client, request(t.Context(), huge)); response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%s %s", response.Status, text)
	}
	r := request(t.Context(), body(false, "hi"))
	r.Header.Set("X-Large", strings.Repeat("x", 128<<10))
	if response, err := client.Do(r); err == nil {
		response.Body.Close()
		if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s", response.Status)
		}
	}
}

func TestBadHTTP(t *testing.T) {
	_, url := upstream(t, greeting, scripted.Options{})
	l := lease(t, url)
	_, client := open(t, l, gateway.Options{})
	for _, text := range []string{
		"nonsense\r\n\r\n", "\x00\x01\x02\r\n\r\n", "POST /v1/messages HTTP/1.1\r\n\r\n", // no Host
		"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\nhello",
		"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
	} {
		conn, err := net.Dial("unix", l.Socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		answer, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 4") && !strings.HasPrefix(string(answer), "HTTP/1.1 5") {
			t.Errorf("%q: %q", text, answer)
		}
		conn.Close()
	}
	if response, text := do(t, client, request(t.Context(), body(false, "hi"))); response.StatusCode != http.StatusOK {
		t.Errorf("%s %s", response.Status, text)
	}
}

// More connections than there are places wait; none is lost, and nobody else's
// lease minds.
func TestManyConnections(t *testing.T) {
	_, url := upstream(t, greeting, scripted.Options{})
	l := lease(t, url)
	g, _ := open(t, l, gateway.Options{})
	other := lease(t, url)
	other.ID = "other"
	if err := g.Open(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	var idle []net.Conn
	for range 600 {
		conn, err := net.DialTimeout("unix", l.Socket, 100*time.Millisecond)
		if err != nil {
			break // the queue is full
		}
		idle = append(idle, conn)
	}
	if len(idle) < 256 {
		t.Errorf("%d connections", len(idle))
	}
	if response, text := do(t, inside(t, other.Socket), request(t.Context(), body(false, "hi"))); response.StatusCode != http.StatusOK {
		t.Errorf("%s %s", response.Status, text)
	}
	for _, conn := range idle {
		conn.Close()
	}
	if response, text := do(t, inside(t, l.Socket), request(t.Context(), body(false, "hi"))); response.StatusCode != http.StatusOK {
		t.Errorf("%s %s", response.Status, text)
	}
}

// TestOpenForOneThatIsGone has a lease asked for by one that is killed before its
// turn comes: the next one has looked by then for what was left.
func TestOpenForOneThatIsGone(t *testing.T) {
	l := lease(t, "http://127.0.0.1:9")
	g, _ := open(t, l, gateway.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	late := lease(t, "http://127.0.0.1:9")
	late.ID = "late"
	changed := l
	changed.Session = "late"
	for _, asked := range []gateway.Lease{late, changed} {
		if err := g.Open(ctx, asked); !errors.Is(err, context.Canceled) {
			t.Errorf("lease %s: %v", asked.ID, err)
		}
	}
	if _, err := os.Lstat(late.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket: %v", err)
	}
	if got, err := g.Leases(t.Context()); err != nil || len(got) != 1 || got[0].ID != l.ID || got[0].Session != l.Session {
		t.Errorf("leases %+v, %v", got, err)
	}
}
