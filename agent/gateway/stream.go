package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// The stream is a connection to pathStream that both sides use for messages of
// their own once the daemon has answered 101: a line of JSON each, a list of
// calls from the client, and the list of its replies from the daemon.
const (
	streamProtocol = "claude-runner-gateway"
	firstLine      = 16 << 10 // bytes that are made room for before a line is read
)

// controlStream is the client's side. One message is under way at a time.
type controlStream struct {
	instance string // of the daemon
	conn     net.Conn
	lines    *bufio.Scanner
	out      bytes.Buffer
	unbind   func() bool
}

// openStream opens a stream, which ends with ctx.
func (c *Client) openStream(ctx context.Context) (*controlStream, error) {
	r, key, err := c.request(ctx, pathStream, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", streamProtocol)
	conn, err := c.dial(ctx, "", "")
	if err != nil {
		return nil, c.unanswered(ctx, key, err)
	}
	s := &controlStream{conn: conn, unbind: context.AfterFunc(ctx, func() { conn.Close() })}
	_ = conn.SetDeadline(time.Now().Add(askTimeout))
	if err := r.Write(conn); err != nil {
		s.close()
		return nil, c.unanswered(ctx, key, err)
	}
	in := bufio.NewReaderSize(conn, firstLine)
	response, err := http.ReadResponse(in, r)
	if err != nil {
		s.close()
		return nil, c.unanswered(ctx, key, err)
	}
	switch response.StatusCode {
	case http.StatusSwitchingProtocols:
		s.instance, s.lines = response.Header.Get(instanceHeader), scanLines(in)
		return s, nil
	case http.StatusUnauthorized:
		err = c.unauthorized(key)
	default:
		err = &statusError{response.StatusCode}
	}
	response.Body.Close()
	s.close()
	return nil, err
}

func (s *controlStream) close() {
	s.unbind()
	s.conn.Close()
}

// exchange sends a message and reads what is answered.
func (s *controlStream) exchange(message, answer any) error {
	_ = s.conn.SetDeadline(time.Now().Add(askTimeout))
	if err := writeLine(s.conn, &s.out, message); err != nil {
		return &goneError{fmt.Errorf("ask the gateway: %w", err)}
	}
	if !s.lines.Scan() {
		err := s.lines.Err()
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return &goneError{fmt.Errorf("read the gateway's answer: %w", err)}
	}
	return json.Unmarshal(s.lines.Bytes(), answer)
}

// scanLines reads messages.
func scanLines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, firstLine), maxControl)
	return s
}

// writeLine sends a message at once. buffer is room for it.
func writeLine(w io.Writer, buffer *bytes.Buffer, message any) error {
	buffer.Reset()
	if err := json.NewEncoder(buffer).Encode(message); err != nil { // it ends with a line's end, and has no other
		return err
	}
	_, err := w.Write(buffer.Bytes())
	return err
}

// serveStream answers a client's messages until it leaves, or the daemon ends.
func (d *daemon) serveStream(w http.ResponseWriter, r *http.Request) {
	d.streams.Add(1)
	defer d.streams.Done()
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		d.log.Error("a client has no stream", "error", err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(r.Context(), func() { conn.Close() })()
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n",
		streamProtocol, instanceHeader, d.instance)
	lines := scanLines(conn) // the client sends nothing before it has this answer
	var out bytes.Buffer
	for err == nil && lines.Scan() {
		err = d.answerLine(r.Context(), conn, &out, lines.Bytes())
	}
	if err == nil {
		err = lines.Err()
	}
	if err != nil && r.Context().Err() == nil && !errors.Is(err, net.ErrClosed) {
		d.log.Warn("a client's stream ended", "error", err)
	}
}

// answerLine answers a message, unless the daemon is about to end.
func (d *daemon) answerLine(ctx context.Context, w io.Writer, out *bytes.Buffer, line []byte) error {
	if !d.begin() {
		return net.ErrClosed // the asking side starts another daemon
	}
	defer d.done()
	var batch []call
	if err := json.Unmarshal(line, &batch); err != nil {
		return errors.New("the questions cannot be read")
	}
	replies := make([]reply, len(batch))
	for i := range batch {
		replies[i] = d.answerCall(ctx, &batch[i])
	}
	return writeLine(w, out, replies)
}

func (d *daemon) answerCall(ctx context.Context, c *call) (r reply) {
	var err error
	switch c.Path {
	case pathRenew:
		err = d.gateway.renew(ctx, c.question)
	case pathTotals:
		if t, ok := d.gateway.ledger.totals(c.Meter); ok {
			r.Totals = &t
		}
	case pathForget:
		err = d.gateway.Forget(ctx, c.Meter)
	default:
		err = errors.New("the gateway does not know " + c.Path)
	}
	if err != nil {
		r.complaint = complain(err)
	}
	return r
}
