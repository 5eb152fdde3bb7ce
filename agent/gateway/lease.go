package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"claude-runner/agent"
)

const (
	maxConns   = 256       // of one sandbox at a time; more wait
	maxBodies  = 256 << 20 // bytes of one sandbox's model calls that are held at a time
	maxHeaders = 64 << 10
	headerWait = 30 * time.Second
	idleWait   = 2 * time.Minute // of a connection between two requests
)

// config is a lease as it was opened. It does not change.
type config struct {
	Lease
	prices map[string]agent.Price
}

func newConfig(l Lease) *config {
	c := &config{Lease: l, prices: l.Prices}
	if c.prices == nil {
		c.prices = agent.DefaultPrices
	}
	if c.Network == "" {
		c.Network = agent.NetworkNone
	}
	return c
}

// lease serves one sandbox.
type lease struct {
	gateway  *Gateway
	config   atomic.Pointer[config]
	server   *http.Server
	bodies   *semaphore.Weighted
	conns    chan struct{} // a place for each connection
	refusals *refusals
	tunnels  tunnels
	open     sync.WaitGroup // connections, and tunnels
	serving  sync.WaitGroup // Serve

	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	socket *socket
}

// newLease makes the socket and serves it.
func (g *Gateway) newLease(c *config) (*lease, error) {
	l := &lease{
		gateway: g, bodies: semaphore.NewWeighted(maxBodies), conns: make(chan struct{}, maxConns),
		refusals: newRefusals(),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.config.Store(c)
	l.server = &http.Server{
		Handler:           http.HandlerFunc(l.serve),
		ReadHeaderTimeout: headerWait,
		IdleTimeout:       idleWait,
		MaxHeaderBytes:    maxHeaders,
		BaseContext:       func(net.Listener) context.Context { return l.ctx },
		ConnState:         l.connState,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelWarn),
	}
	if err := l.listen(c); err != nil {
		l.cancel()
		return nil, err
	}
	return l, nil
}

// listen makes the socket and serves it, in place of an earlier one.
func (l *lease) listen(c *config) error {
	fresh, err := bind(c.Socket, c.Owner)
	if err != nil {
		return fmt.Errorf("open the gateway's socket %s: %w", c.Socket, err)
	}
	l.mu.Lock()
	old := l.socket
	l.socket = fresh
	l.mu.Unlock()
	if old != nil {
		old.close(false)
	}
	l.serving.Go(func() { _ = l.server.Serve(&listener{Listener: fresh.listener, places: l.conns}) })
	return nil
}

// replace makes c the lease from the next request on. Tunnels that it does not
// allow are closed.
func (l *lease) replace(c *config) error {
	l.mu.Lock()
	same := l.socket.at(c.Socket)
	l.mu.Unlock()
	if same {
		if err := l.socket.own(c.Owner); err != nil {
			return fmt.Errorf("give the gateway's socket %s to its owner: %w", c.Socket, err)
		}
	} else if err := l.listen(c); err != nil {
		return err
	}
	l.config.Store(c)
	l.tunnels.keep(func(t *tunnel) bool { return c.allowsTunnel(t.target) })
	return nil
}

// close ends all connections and waits for their handlers.
func (l *lease) close() error {
	l.mu.Lock()
	s := l.socket
	l.mu.Unlock()
	err := s.close(true)
	l.cancel()
	_ = l.server.Close() // of listeners that are closed already
	l.tunnels.keep(func(*tunnel) bool { return false })
	l.serving.Wait()
	l.open.Wait()
	l.refusals.close()
	return err
}

// connState counts connections, which close waits for. A tunnel counts itself
// before its connection is hijacked.
func (l *lease) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		l.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		l.open.Done()
	}
}

// serve answers one request by its form.
func (l *lease) serve(w http.ResponseWriter, r *http.Request) {
	c := l.config.Load()
	switch {
	case r.Method == http.MethodConnect:
		l.connect(w, r, c)
	case r.URL.IsAbs():
		l.proxy(w, r, c)
	default:
		l.model(w, r, c)
	}
}

// room waits until the lease has room for the request's body.
func (l *lease) room(r *http.Request) (release func(), err error) {
	n := r.ContentLength
	if n < 0 || n > maxBody {
		n = maxBody
	}
	if err := l.bodies.Acquire(r.Context(), n); err != nil {
		return func() {}, err
	}
	return sync.OnceFunc(func() { l.bodies.Release(n) }), nil
}

// listener accepts a connection when there is a place for it.
type listener struct {
	net.Listener
	places chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	l.places <- struct{}{}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &placed{UnixConn: conn.(*net.UnixConn), leave: sync.OnceFunc(func() { <-l.places })}, nil
}

// placed is a connection that leaves its place when it is closed.
type placed struct {
	*net.UnixConn
	leave func()
}

func (p *placed) Close() error {
	defer p.leave()
	return p.UnixConn.Close()
}
