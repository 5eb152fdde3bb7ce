package docker_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"regexp"
	"sync"
	"testing"
)

// proxy stands between a backend and this host's engine, and can cut their
// connections as a restarted engine would.
type proxy struct {
	host string // what a backend is given as its host

	mu    sync.Mutex
	rules []rule
	open  map[net.Conn]string // what was asked for last on each connection
}

// rule handles the requests whose method and path match.
type rule struct {
	match  *regexp.Regexp
	handle func(w http.ResponseWriter, r *http.Request, engine http.Handler)
}

type connKey struct{}

// newProxy serves until the test's end.
func newProxy(t *testing.T, socket string) *proxy {
	t.Helper()
	listener := listenUnix(t)
	p := &proxy{host: "unix://" + listener.Addr().String(), open: map[net.Conn]string{}}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	transport := &http.Transport{DialContext: dial}
	engine := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine" },
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, engine) }),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				p.mu.Lock()
				delete(p.open, c)
				p.mu.Unlock()
			}
		},
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(listener) }()
	t.Cleanup(func() {
		p.cut(".*")
		_ = srv.Close()
		<-served
		transport.CloseIdleConnections()
	})
	return p
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request, engine http.Handler) {
	asked := r.Method + " " + r.URL.Path
	p.mu.Lock()
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		p.open[c] = asked
	}
	rules := p.rules
	p.mu.Unlock()
	for _, rule := range rules {
		if rule.match.MatchString(asked) {
			rule.handle(w, r, engine)
			return
		}
	}
	engine.ServeHTTP(w, r)
}

// on handles the requests that match from now on.
func (p *proxy) on(match string, handle func(w http.ResponseWriter, r *http.Request, engine http.Handler)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, rule{regexp.MustCompile(match), handle})
}

// off forgets all that on was told.
func (p *proxy) off() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = nil
}

// cut closes the connections on which a request that matches was the last, and
// returns how many those were.
func (p *proxy) cut(match string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for c, asked := range p.open {
		if regexp.MustCompile(match).MatchString(asked) && c.Close() == nil {
			n++
		}
	}
	return n
}

// dead cuts every connection and every one that is made, until off.
func (p *proxy) dead() {
	p.on(".*", func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })
	p.cut(".*")
}

// swallow passes a request on and cuts the connection instead of its answer.
func swallow(_ http.ResponseWriter, r *http.Request, engine http.Handler) {
	engine.ServeHTTP(discard{http.Header{}}, r)
	panic(http.ErrAbortHandler)
}

// discard is an answer that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
