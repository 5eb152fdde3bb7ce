package api_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"claude-runner/api"
)

// within returns a context that ends soon enough for a test.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestShutdown ends a runner as a program does: first the manager, then the
// server. Running tasks get their time, and every client its answer.
func TestShutdown(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.session.Concurrency = 1 })
	held := w.held("s")
	waits := w.background("s", "echo next")
	w.queued("s", 1)
	c, _ := w.open("/stream/s")

	closed := make(chan error, 1)
	go func() { closed <- w.manager.Close(within(t, time.Minute)) }()
	eventually(t, "no task is taken", func() bool {
		a := w.do(http.MethodGet, "/health", "")
		return a.status == http.StatusServiceUnavailable && a.object(t)["status"] == "shutting_down"
	})
	if a := w.post("s2", "echo"); a.status != http.StatusServiceUnavailable || a.object(t)["code"] != "shutting_down" || a.header.Get("Retry-After") == "" {
		t.Errorf("a new task: %d %s", a.status, a.body)
	}
	if a := <-waits; a.status != http.StatusServiceUnavailable || a.object(t)["code"] != "shutting_down" || a.object(t)["status"] != "queued" || a.object(t)["taskId"] == nil {
		t.Errorf("the task that waits: %d %s", a.status, a.body)
	}
	w.letGo("s")
	if a := <-held; a.status != http.StatusOK || a.object(t)["text"] != "held" {
		t.Errorf("the task that runs: %d %s", a.status, a.body)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	c.until("task_complete")
	if end := c.ends(); end.Code != websocket.CloseGoingAway {
		t.Errorf("the stream's end: %v", end)
	}
	if err := w.server.Shutdown(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", w.addr); err == nil {
		t.Error("connections are still taken")
	}
}

// TestShutdownAlone holds that Shutdown waits for answers while its time
// lasts, and then gives them as they stand.
func TestShutdownAlone(t *testing.T) {
	w := newWorld(t)
	held := w.held("a")
	other := w.held("b")
	c, _ := w.open("/stream/a")
	ctx, timeUp := context.WithCancel(context.Background())
	down := make(chan error, 1)
	go func() { down <- w.server.Shutdown(ctx) }()
	eventually(t, "no connection is taken", func() bool {
		conn, err := net.Dial("tcp", w.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	w.letGo("a")
	if a := <-held; a.status != http.StatusOK {
		t.Errorf("a task that ends in time: %d %s", a.status, a.body)
	}
	timeUp()
	if a := <-other; a.status != http.StatusServiceUnavailable || a.object(t)["code"] != "shutting_down" || a.object(t)["status"] != "running" {
		t.Errorf("a task that does not: %d %s", a.status, a.body)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	c.until("task_complete")
	if end := c.ends(); end.Code != websocket.CloseGoingAway {
		t.Errorf("the stream's end: %v", end)
	}
	w.letGo("b")
}

func TestShutdownBeforeServe(t *testing.T) {
	w := newWorld(t)
	s := api.New(api.Options{Manager: w.manager})
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("Serve has left the listener open")
	}
}

// poorListener has no file descriptors for its first connections.
type poorListener struct {
	net.Listener
	fails atomic.Int32
}

func (l *poorListener) Accept() (net.Conn, error) {
	if l.fails.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

// TestOutOfFiles holds that the server goes on where it could not accept a
// connection.
func TestOutOfFiles(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	poor := &poorListener{Listener: l}
	poor.fails.Store(2)
	s := api.New(api.Options{Manager: w.manager, Log: slog.New(slog.NewTextHandler(w.logs, nil))})
	served := make(chan error, 1)
	go func() { served <- s.Serve(poor) }()
	w.url = "http://" + l.Addr().String()
	if a := w.do(http.MethodGet, "/health", ""); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	w.client.CloseIdleConnections()
	if err := errors.Join(s.Shutdown(within(t, 20*time.Second)), <-served); err != nil {
		t.Error(err)
	}
	if !strings.Contains(w.logs.String(), "too many open files") {
		t.Errorf("the log does not say so: %s", w.logs)
	}
}
