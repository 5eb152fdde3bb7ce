package api

import (
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
)

// requestIDForm is what a client's own request id may look like.
var requestIDForm = regexp.MustCompile(`^[A-Za-z0-9._:+/=@-]{1,128}$`)

// key is the type under which this package keeps things with a request.
type key string

const (
	keyRequestID key = "request id"
	keyBody      key = "body"
	keyCaller    key = "caller"
	keyRecord    key = "record"
)

// requestID returns the request's id: the client's own in X-Request-Id where
// it will do, or a new one.
func requestID(c *fiber.Ctx) string {
	if id, ok := c.Locals(keyRequestID).(string); ok {
		return id
	}
	id := c.Get(fiber.HeaderXRequestID)
	if !requestIDForm.MatchString(id) {
		id = uuid.NewString()
	}
	c.Locals(keyRequestID, id)
	return id
}

// setHeaders sets what every answer carries.
func setHeaders(c *fiber.Ctx) {
	c.Set(fiber.HeaderXRequestID, requestID(c))
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	c.Set(fiber.HeaderCacheControl, "no-store")
}

// observe surrounds every request: it gives it an id, answers its error, reads
// what is left of its body, and writes its line in the log.
func (s *Server) observe(c *fiber.Ctx) error {
	begun := time.Now()
	setHeaders(c)
	body := &body{stream: c.Context().RequestBodyStream()}
	c.Locals(keyBody, body)
	if err := c.Next(); err != nil {
		s.fail(c, err)
	}
	if !body.drain() {
		c.Context().SetConnectionClose()
	}
	s.logRequest(c, begun)
	return nil
}

// refuse answers a request that came to no route: what could not be read as
// HTTP.
func (s *Server) refuse(c *fiber.Ctx, err error) error {
	begun := time.Now()
	if e, ok := errors.AsType[*fiber.Error](err); ok && e.Code == http.StatusNotImplemented {
		c.Set(fiber.HeaderAllow, "GET, HEAD, POST, DELETE, OPTIONS")
	}
	s.fail(c, err)
	c.Context().SetConnectionClose()
	s.logRequest(c, begun)
	return nil
}

// logRequest writes a request's line: never its body, its query or its
// headers, where secrets may be.
func (s *Server) logRequest(c *fiber.Ctx, begun time.Time) {
	status := c.Response().StatusCode()
	level := slog.LevelInfo
	switch {
	case status >= http.StatusInternalServerError:
		level = slog.LevelWarn
	case c.Path() == "/health", c.Path() == "/livez", c.Path() == "/readyz", c.Path() == "/metrics":
		level = slog.LevelDebug // asked every few seconds, by a machine
	}
	s.log.Log(s.root, level, "request",
		"method", shown(c.Method()), "path", shown(c.Path()), "status", status,
		"duration", time.Since(begun), "bytes", bodyLength(c),
		"request_id", requestID(c), "remote", c.IP())
}

// bodyLength is the length of the answer's body; 0 of one that goes on as a
// stream, which asking for it would read to its end.
func bodyLength(c *fiber.Ctx) int {
	if c.Response().IsBodyStream() {
		return 0
	}
	return len(c.Response().Body())
}

// panicked logs a handler's panic, which the client sees as an internal error.
func (s *Server) panicked(c *fiber.Ctx, reason any) {
	s.log.Error("panic in a request", "request_id", requestID(c), "reason", reason, "stack", string(debug.Stack()))
}
