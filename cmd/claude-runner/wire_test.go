package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// wire stands between clients and a server. It can be cut, once or for a while,
// and it can hang: then it takes what it is given and passes nothing on.
type wire struct {
	listener    net.Listener
	network, to string
	group       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	open  chan struct{} // closed while bytes pass
	dead  bool          // new connections are closed at once
	said  bytes.Buffer  // by clients
}

// startWire leads to a server until the test's end.
func startWire(t *testing.T, network, to string) *wire {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "wire") // a short path: the socket's has a limit
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		address = filepath.Join(dir, "socket")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: ln, network: network, to: to, conns: map[net.Conn]bool{}, open: make(chan struct{})}
	close(w.open)
	w.group.Go(w.accept)
	t.Cleanup(func() {
		ln.Close()
		w.resume()
		w.cut()
		w.group.Wait()
	})
	return w
}

func (w *wire) address() string { return w.listener.Addr().String() }

func (w *wire) accept() {
	for {
		in, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.group.Go(func() { w.carry(in) })
	}
}

// carry passes bytes on between a client and the server until both have ended.
func (w *wire) carry(in net.Conn) {
	defer in.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := (&net.Dialer{}).DialContext(ctx, w.network, w.to)
	if err != nil {
		return
	}
	defer out.Close()
	if !w.hold(in, out) {
		return
	}
	defer w.release(in, out)
	var both sync.WaitGroup
	both.Go(func() { w.copy(out, io.TeeReader(in, w)) })
	both.Go(func() { w.copy(in, out) })
	both.Wait()
}

func (w *wire) hold(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		w.conns[c] = true
	}
	return !w.dead
}

func (w *wire) release(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		delete(w.conns, c)
	}
}

// copy passes on one direction, and its end.
func (w *wire) copy(to net.Conn, from io.Reader) {
	_, _ = io.Copy(gate{w, to}, from) // how it ends is the clients' business
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// gate lets bytes through while its wire does not hang.
type gate struct {
	w  *wire
	to io.Writer
}

func (g gate) Write(p []byte) (int, error) {
	g.w.mu.Lock()
	open := g.w.open
	g.w.mu.Unlock()
	<-open
	return g.to.Write(p)
}

// Write notes what clients say.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said.Write(p)
}

func (w *wire) sent() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said.String()
}

// cut ends every connection.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
}

// hang passes nothing on until resume.
func (w *wire) hang() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = make(chan struct{})
}

// die cuts every connection, and each new one until resume.
func (w *wire) die() {
	w.mu.Lock()
	w.dead = true
	w.mu.Unlock()
	w.cut()
}

// resume ends what hang and die began.
func (w *wire) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = false
	select {
	case <-w.open:
	default:
		close(w.open)
	}
}
