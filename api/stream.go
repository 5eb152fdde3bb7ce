package api

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"

	"claude-runner/session"
)

const (
	streamReadLimit = 4 << 10     // bytes of a client's message; none is needed
	farewell        = time.Second // for a client to answer the closing of its stream
)

var (
	errNoWebSocket = &session.Error{Code: CodeUpgrade, Message: "this is a stream: open it with a WebSocket client (ws:// or wss://, version 13), or with Accept: text/event-stream"}

	errClientGone = errors.New("the client has left")
	errNoAnswer   = errors.New("no answer to pings")
	errPingDue    = errors.New("ping due")
)

// stream answers GET /stream/:sessionId with what happens in the session from
// now on or, with ?after=SEQ, after that event: over a WebSocket, or as
// server-sent events where the client accepts those. The session need not be
// there yet.
func (s *Server) stream(c *fiber.Ctx) error {
	id, err := sessionID(c)
	if err != nil {
		return err
	}
	after, err := streamStart(c)
	if err != nil {
		return err
	}
	if err := s.view(c).MayFollow(s.root, id); err != nil {
		return err
	}
	s.view(c).Expect(id)
	who := callerOf(c)
	if !websocket.IsWebSocketUpgrade(c) {
		if acceptsEvents(c) {
			return s.sendEvents(c, who, id, after)
		}
		return errNoWebSocket
	}
	requestID := requestID(c)
	handle := func(conn *websocket.Conn) {
		st := &stream{server: s, conn: conn, caller: who, sessionID: id, start: after, requestID: requestID}
		st.serve()
	}
	return websocket.New(handle, websocket.Config{RecoverHandler: s.streamPanicked})(c)
}

// stream is one client of a session's events. One goroutine writes; another
// reads, since pings are answered and a client's leaving is seen by reading.
// Both have ended when serve returns: the connection is then used again.
type stream struct {
	server    *Server
	conn      *websocket.Conn
	caller    caller
	sessionID string
	start     int64 // as the client asked
	requestID string
	heard     atomic.Bool // the client has sent something since the last ping
}

func (st *stream) serve() {
	s := st.server
	if !s.enterStream() {
		st.close(errStopping)
		return
	}
	defer s.streams.Done()
	begun := time.Now()
	ctx, cancel := context.WithCancelCause(s.root)
	defer cancel(nil)
	read := make(chan struct{})
	go func() {
		defer close(read)
		st.read()
		cancel(errClientGone)
	}()
	defer func() { // also when write panics
		if err := st.conn.SetReadDeadline(time.Now().Add(farewell)); err != nil {
			s.log.Debug("stream: end of reading could not be set", "request_id", st.requestID, "error", err)
		}
		<-read
	}()
	st.heard.Store(true)
	err := st.write(ctx)
	st.close(err)
	s.log.Debug("stream ended", "session", st.sessionID, "request_id", st.requestID, "duration", time.Since(begun), "reason", err)
}

// read reads until the client leaves, and forgets what it says.
func (st *stream) read() {
	st.conn.SetReadLimit(streamReadLimit)
	st.conn.SetPongHandler(func(string) error {
		st.heard.Store(true)
		return nil
	})
	for {
		if _, _, err := st.conn.NextReader(); err != nil {
			return
		}
		st.heard.Store(true)
	}
}

// write sends the session's events until something ends the stream, and
// returns what.
func (st *stream) write(ctx context.Context) error {
	cursor, err := st.server.openCursor(ctx, st.caller, st.sessionID, st.start)
	if err != nil {
		return err
	}
	defer cursor.Close()
	return st.server.follow(ctx, st.caller, cursor, st.sessionID, st)
}

func (st *stream) event(_ int64, data []byte) error { return st.send(data) }

func (st *stream) flush() error { return nil }

func (st *stream) send(data []byte) error {
	if err := st.conn.SetWriteDeadline(time.Now().Add(st.server.opts.StreamPatience)); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	if err := st.conn.WriteMessage(websocket.TextMessage, data); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	return nil
}

func (st *stream) ping() error {
	if !st.heard.Swap(false) {
		return errNoAnswer
	}
	if err := st.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(st.server.opts.StreamPatience)); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	return nil
}

// close tells the client why the stream ends, as far as it still listens.
func (st *stream) close(reason error) {
	if errors.Is(reason, errClientGone) {
		return
	}
	code, text := websocket.CloseInternalServerErr, "the runner failed; its log says more under request id "+st.requestID
	switch {
	case errors.Is(reason, session.ErrNotFound), session.CodeOf(reason) == session.CodeNoSession:
		code, text = websocket.CloseNormalClosure, "the session was deleted"
	case errors.Is(reason, session.ErrLogClosed), errors.Is(reason, errStopping):
		code, text = websocket.CloseGoingAway, "the runner is shutting down"
	case session.CodeOf(reason) == CodeUnauthorized:
		code, text = websocket.ClosePolicyViolation, "the key is of no use any more"
	case errors.Is(reason, errNoAnswer):
		code, text = websocket.ClosePolicyViolation, errNoAnswer.Error()
	default:
		st.server.log.Error("stream failed", "session", st.sessionID, "request_id", st.requestID, "error", reason)
	}
	err := st.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(farewell))
	if err != nil {
		st.server.log.Debug("stream: client was not told of its end", "request_id", st.requestID, "error", err)
	}
}

// streamPanicked logs a panic in a stream, which ends that stream alone.
func (s *Server) streamPanicked(*websocket.Conn) {
	if reason := recover(); reason != nil {
		s.log.Error("panic in a stream", "reason", reason, "stack", string(debug.Stack()))
	}
}
