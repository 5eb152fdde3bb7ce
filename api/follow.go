package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"claude-runner/session"
)

// follower is one client of a stream. An error of its methods ends the stream.
type follower interface {
	event(seq int64, data []byte) error // seq is 0 for what is the client's own
	flush() error                       // after some events
	ping() error                        // when nothing has been sent for a while
}

// eventResync tells a client that the events between the last one it has and
// the one numbered Seq are no longer kept.
const eventResync = "resync"

// resyncView is the event that tells of a hole. It is the client's own.
type resyncView struct {
	Type      string    `json:"type"`
	Time      time.Time `json:"time"`
	SessionID string    `json:"sessionId"`
	Seq       int64     `json:"seq"` // of the first event that there is
}

// openCursor returns a cursor where a client wants its stream to begin.
func (s *Server) openCursor(ctx context.Context, who caller, sessionID string, after int64) (*session.Reader, error) {
	events := s.manager.View(who.Caller)
	cursor, err := events.Read(ctx, sessionID, session.Live)
	if err != nil || after == session.Live {
		return cursor, err
	}
	last := cursor.After()
	cursor.Close()
	if after > last {
		after = 0 // an event of a session of that name which has been deleted since
	}
	return events.Read(ctx, sessionID, after)
}

// follow greets a client and sends it the session's events until something ends
// the stream, and returns what. The cursor stands before the client is told that
// it is connected: what happens from then on is sent.
func (s *Server) follow(ctx context.Context, who caller, cursor *session.Reader, sessionID string, f follower) error {
	if err := s.greet(ctx, who, cursor.After(), sessionID, f); err != nil {
		return err
	}
	ping := time.Now().Add(s.opts.StreamPing)
	for {
		until, cancel := context.WithDeadlineCause(ctx, ping, errPingDue)
		records, err := cursor.Next(until)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = errPingDue // while the store was asked, which says it in its own words
		}
		cancel()
		if ctx.Err() == nil { // the key may have been revoked meanwhile
			if _, err := s.access.holder(context.WithoutCancel(ctx), who.bound); err != nil {
				return err
			}
		}
		if gap, ok := errors.AsType[*session.GapError](err); ok {
			err = tell(f, resyncView{Type: eventResync, Time: time.Now().UTC(), SessionID: sessionID, Seq: gap.First})
		}
		if err := send(f, records); err != nil {
			return err
		}
		if err != nil && !errors.Is(err, errPingDue) {
			return err
		}
		if time.Now().Before(ping) {
			continue
		}
		if err := f.ping(); err != nil {
			return err
		}
		ping = time.Now().Add(s.opts.StreamPing)
	}
}

func send(f follower, records []session.Record) error {
	for _, r := range records {
		if err := f.event(r.Seq, r.Data); err != nil {
			return err
		}
	}
	if len(records) == 0 {
		return nil
	}
	return f.flush()
}

// greet tells a client that it is connected, and where the session stands.
func (s *Server) greet(ctx context.Context, who caller, seq int64, sessionID string, f follower) error {
	state, err := s.manager.View(who.Caller).Session(ctx, sessionID)
	if err != nil && session.CodeOf(err) != session.CodeNoSession {
		return err
	}
	return tell(f, connectedView{
		Type: session.EventConnected, Time: time.Now().UTC(), SessionID: sessionID,
		Busy: state.Busy, Queued: state.Queued, Turns: state.Turns, Seq: seq,
	})
}

// tell sends an event that is the client's own.
func tell(f follower, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	if err := f.event(0, data); err != nil {
		return err
	}
	return f.flush()
}

// streamStart reads where the client wants a stream to begin: behind ?after=SEQ
// or, where it comes again, behind the last event that it had.
func streamStart(c *fiber.Ctx) (int64, error) {
	name, text := "Last-Event-ID", c.Get("Last-Event-ID")
	if text == "" {
		name, text = "after", c.Query("after")
	}
	if text == "" {
		return session.Live, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, invalid(name, "want the seq of an event, or 0 for all, got %q", shown(text))
	}
	return n, nil
}
