package api

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
)

// sseRetry is how long a client waits before it connects again.
const sseRetry = 2 * time.Second

// acceptsEvents reports whether the client asks for server-sent events.
func acceptsEvents(c *fiber.Ctx) bool {
	return strings.Contains(strings.ToLower(c.Get(fiber.HeaderAccept)), "text/event-stream")
}

// sendEvents answers with server-sent events. Each has its seq as its id, which
// the client sends as Last-Event-ID when it comes again.
func (s *Server) sendEvents(c *fiber.Ctx, who caller, sessionID string, after int64) error {
	if !s.enterStream() {
		return errStopping
	}
	c.Set(fiber.HeaderContentType, "text/event-stream; charset=utf-8")
	c.Set(fiber.HeaderCacheControl, "no-cache")
	c.Set("X-Accel-Buffering", "no") // proxies pass events on as they come
	conn, requestID := c.Context().Conn(), requestID(c)
	c.Context().SetBodyStreamWriter(func(w *bufio.Writer) {
		defer s.streams.Done()
		begun := time.Now()
		err := s.writeEvents(who, sessionID, after, &sse{conn: conn, w: w, patience: s.opts.StreamPatience})
		s.log.Debug("stream ended", "session", sessionID, "request_id", requestID, "duration", time.Since(begun), "reason", err)
	})
	return nil
}

func (s *Server) writeEvents(who caller, sessionID string, after int64, client *sse) error {
	ctx, cancel := context.WithCancelCause(s.root)
	defer cancel(nil)
	cursor, err := s.openCursor(ctx, who, sessionID, after)
	if err != nil {
		return err
	}
	defer cursor.Close()
	if _, err := fmt.Fprintf(client.w, "retry: %d\n\n", sseRetry.Milliseconds()); err != nil {
		return err
	}
	return s.follow(ctx, who, cursor, sessionID, client)
}

// sse writes server-sent events. That a client has left is seen when it is
// written to, at the next ping at the latest.
type sse struct {
	conn     net.Conn
	w        *bufio.Writer
	patience time.Duration
}

func (e *sse) event(seq int64, data []byte) error {
	if seq > 0 {
		if _, err := fmt.Fprintf(e.w, "id: %d\n", seq); err != nil {
			return fmt.Errorf("%w: %w", errClientGone, err)
		}
	}
	// JSON has no line breaks, so that one line holds it.
	if _, err := fmt.Fprintf(e.w, "data: %s\n\n", data); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	return nil
}

func (e *sse) flush() error {
	// The server's own deadline is for answers that have an end.
	if err := e.conn.SetWriteDeadline(time.Now().Add(e.patience)); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	if err := e.w.Flush(); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	return nil
}

func (e *sse) ping() error {
	if _, err := e.w.WriteString(": ping\n\n"); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	return e.flush()
}
