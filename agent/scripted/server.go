package scripted

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Options are what a server has beside its script.
type Options struct {
	// RequireKey is the credential that requests must carry, as x-api-key or as
	// a bearer token; others get 401. Empty: the script's require_key, and
	// without that one any request is served.
	RequireKey string
	// Prices by model id win over the script's. A model without a price is free.
	Prices map[string]Price
	// OnRequest is called for each messages request when it has been read,
	// before it is answered, from the goroutine that answers it.
	OnRequest func(Request)
	// KeepRequests bounds how many requests are kept for Requests, the newest.
	// 0 means 1000, less than 0 none.
	KeepRequests int
}

// Server answers as the Messages API does, by a script. It is an http.Handler
// for a server of the caller's, or listens by itself. Its methods may be called
// from any goroutine.
type Server struct {
	script  *Script
	options Options
	mux     *http.ServeMux
	ids     ids
	record  recorder
	fired   counters

	closed    chan struct{}
	closeOnce sync.Once

	mu    sync.Mutex
	https []*http.Server
	wg    sync.WaitGroup // listeners and their connections
}

// New returns a server of the script.
func New(script *Script, options Options) *Server {
	if options.RequireKey == "" {
		options.RequireKey = script.doc.RequireKey
	}
	if options.KeepRequests == 0 {
		options.KeepRequests = 1000
	}
	s := &Server{
		script: script, options: options,
		ids:    newIDs(),
		fired:  counters{by: map[counter]int{}},
		closed: make(chan struct{}),
	}
	s.record.keep = options.KeepRequests
	s.mux = s.routes()
	return s
}

// Listen serves on addr, such as "127.0.0.1:0", until Close, and returns the
// URL to be given to clients as the API's base URL. For an address of all
// interfaces, such as ":8080", it is the loopback's.
func (s *Server) Listen(addr string) (string, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: time.Minute,
		ConnState:         s.connState,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
		_ = listener.Close()
		return "", errors.New("listen: the server is closed")
	default:
	}
	s.https = append(s.https, server)
	s.wg.Go(func() { _ = server.Serve(listener) }) // ends with ErrServerClosed
	return "http://" + reachable(listener.Addr()), nil
}

// reachable is a host and port that a client on this host can use.
func reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
}

// connState counts the connections of Listen, which Close waits for.
func (s *Server) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.wg.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.wg.Done()
	}
}

// Close ends hanging answers, stops listening, breaks the connections of
// Listen, and waits until all are gone. It is idempotent.
func (s *Server) Close() error {
	s.closeOnce.Do(func() { close(s.closed) })
	s.mu.Lock()
	var errs []error
	for _, server := range s.https {
		errs = append(errs, server.Close())
	}
	s.https = nil
	s.mu.Unlock()
	s.wg.Wait()
	return errors.Join(errs...)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Request-Id", s.ids.next("req_"))
	s.mux.ServeHTTP(w, r)
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/messages", s.guard(s.messages))
	mux.HandleFunc("POST /v1/messages/count_tokens", s.guard(s.countTokens))
	mux.HandleFunc("GET /v1/models", s.guard(s.models))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, map[string]string{"service": "scripted Messages API"})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "Not found: "+r.Method+" "+r.URL.Path)
	})
	return mux
}

// guard lets a request pass that has the credential asked for.
func (s *Server) guard(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if want := s.options.RequireKey; want != "" && !carries(r.Header, want) {
			s.record.failed()
			refuse(w, http.StatusUnauthorized, errorTypes[http.StatusUnauthorized].Message)
			return
		}
		next(w, r)
	}
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	type model struct {
		Type      string    `json:"type"`
		ID        string    `json:"id"`
		Name      string    `json:"display_name"`
		CreatedAt time.Time `json:"created_at"`
	}
	list := struct {
		Data    []model `json:"data"`
		HasMore bool    `json:"has_more"`
		FirstID *string `json:"first_id"`
		LastID  *string `json:"last_id"`
	}{Data: []model{}}
	for _, id := range s.script.doc.Models {
		list.Data = append(list.Data, model{Type: "model", ID: id, Name: id, CreatedAt: time.Unix(0, 0).UTC()})
	}
	if n := len(list.Data); n > 0 {
		list.FirstID, list.LastID = &list.Data[0].ID, &list.Data[n-1].ID
	}
	respond(w, http.StatusOK, list)
}

// wait waits for d, and reports whether to go on: the client and the server
// are still there.
func (s *Server) wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-s.closed:
	}
	return false
}

// hang waits until the client or the server is gone.
func (s *Server) hang(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.closed:
	}
}
