// Package api serves a session.Manager over HTTP: the routes, the wire types,
// the errors and the event streams. Nothing of its HTTP library is seen
// outside it.
package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	recovery "github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/valyala/fasthttp"

	"claude-runner/agent"
	"claude-runner/session"
)

// Options is what a Server is made of.
type Options struct {
	Manager *session.Manager
	Log     *slog.Logger
	Version string

	// APIKeys are the keys of which a client must send one. None: no key is
	// asked for.
	APIKeys []agent.Secret
	// CORSOrigins are the web pages, beside those of this host, that may call:
	// "https://app.example.com", or "*" for every page.
	CORSOrigins []string
	// BodyLimit bounds a request's body, in bytes. 0: 1 MiB.
	BodyLimit int

	// StreamPing is how often a stream's client is asked whether it is there; one
	// that does not answer until the next time is let go. 0: 30 s.
	StreamPing time.Duration
	// StreamPatience is how long a stream's client may take to read one event
	// before it is let go. 0: 10 s.
	StreamPatience time.Duration

	// Metrics answers GET /metrics, to those who may call. Nil: nothing does.
	Metrics http.Handler
}

// Server answers HTTP requests. It owns the goroutines of its connections and
// streams; Shutdown ends them.
type Server struct {
	opts    Options
	manager *session.Manager
	log     *slog.Logger
	app     *fiber.App
	access  *access
	started time.Time

	root   context.Context // every request's: a client's leaving ends nothing
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	listener net.Listener
	closing  bool
	streams  sync.WaitGroup
}

const (
	defaultBodyLimit = 1 << 20
	defaultPing      = 30 * time.Second
	defaultPatience  = 10 * time.Second

	readTimeout  = time.Minute      // for a whole request to come in
	writeTimeout = 30 * time.Second // for an answer to go out
	idleTimeout  = 2 * time.Minute  // of a connection between two requests
	headerLimit  = 16 << 10         // bytes, request line included
	lastWords    = 2 * time.Second  // for answers to go out once Shutdown's time is up
)

// errStopping is what requests and streams end with at Shutdown.
var errStopping = &session.Error{
	Code: session.CodeShuttingDown, RetryAfter: 5 * time.Second,
	Message: "the runner is shutting down; try again once it is back",
}

// New returns a Server for opts.
func New(opts Options) *Server {
	if opts.BodyLimit <= 0 {
		opts.BodyLimit = defaultBodyLimit
	}
	if opts.StreamPing <= 0 {
		opts.StreamPing = defaultPing
	}
	if opts.StreamPatience <= 0 {
		opts.StreamPatience = defaultPatience
	}
	s := &Server{
		opts: opts, manager: opts.Manager, log: opts.Log, started: time.Now(),
		access: newAccess(opts.Manager, opts.APIKeys, opts.CORSOrigins),
	}
	s.root, s.cancel = context.WithCancelCause(context.Background())
	s.app = fiber.New(fiber.Config{
		CaseSensitive: true,
		// What fiber gives of a request lies in buffers that it uses again for the
		// next one, and ids outlive their request here. With this, it gives copies.
		Immutable:             true,
		ErrorHandler:          s.refuse,
		BodyLimit:             opts.BodyLimit,
		ReadBufferSize:        headerLimit,
		ReadTimeout:           readTimeout,
		WriteTimeout:          writeTimeout,
		IdleTimeout:           idleTimeout,
		DisableStartupMessage: true,
		// A body comes as a stream, so that a caller without the right to call, and
		// a body over the limit, cost no memory (see body.go).
		StreamRequestBody:            true,
		DisablePreParseMultipartForm: true,
	})
	s.route()
	server := s.app.Server()
	server.Handler = s.knownMethods(s.app.Handler())
	server.CloseOnShutdown = true
	return s
}

// route lays out what the server answers. Order matters: what stands above a
// route comes before it.
func (s *Server) route() {
	s.app.Use(s.observe, recovery.New(recovery.Config{EnableStackTrace: true, StackTraceHandler: s.panicked}))
	s.app.Use(s.access.checkOrigin, s.access.cors())
	s.register()
}

// knownMethods answers a method that HTTP does not have, which fiber would do
// in words of its own.
func (s *Server) knownMethods(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		if slices.Contains(fiber.DefaultMethods, string(ctx.Method())) {
			next(ctx)
			return
		}
		c := s.app.AcquireCtx(ctx)
		defer s.app.ReleaseCtx(c)
		_ = s.refuse(c, fiber.ErrNotImplemented) // always nil
	}
}

// Serve answers the requests that come in at l until Shutdown, and then
// returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	l = &listener{Listener: l, log: s.log, done: s.root.Done()}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return l.Close()
	}
	s.listener = l
	s.mu.Unlock()
	return s.app.Server().Serve(l)
}

// Shutdown takes no more connections and waits until the answers under way are
// out: those of POST /task come when their tasks end, or when the Manager
// closes, which should therefore be closed first. When ctx ends, the rest are
// answered with shutting_down. Streams end last, with what is in the log until
// then.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	l := s.listener
	s.mu.Unlock()
	if l == nil {
		s.cancel(errStopping)
		return nil
	}
	if err := l.Close(); err != nil {
		return fmt.Errorf("close listener: %w", err)
	}

	late, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	stop := context.AfterFunc(ctx, func() {
		s.cancel(errStopping)
		time.AfterFunc(lastWords, func() { cut(context.Cause(ctx)) })
	})
	defer stop()
	if err := s.app.Server().ShutdownWithContext(late); err != nil {
		return fmt.Errorf("shut down: some clients have not taken their answers: %w", err)
	}
	s.cancel(errStopping)
	s.streams.Wait() // each ends within StreamPatience and a second
	return nil
}

// enterStream counts a stream in. It is false where the server is closing;
// otherwise s.streams.Done is due at its end.
func (s *Server) enterStream() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.streams.Add(1)
	return true
}
