package api

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/gofiber/fiber/v2"

	"claude-runner/session"
)

// body is a request's body as it comes in. It remembers its end: reading on
// would take the bytes of the connection's next request.
type body struct {
	stream io.Reader // nil: no body
	err    error     // io.EOF at the end, or what went wrong
}

// maxDrain bounds what is read of a body that nobody wants, in bytes.
const maxDrain = 16 << 20

func (b *body) Read(p []byte) (int, error) {
	if b.stream == nil {
		return 0, io.EOF
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.stream.Read(p)
	b.err = err
	return n, err
}

// drain reads and forgets what is left. A client that is still sending when
// the connection is closed may never see its answer, and what is left would be
// taken for the next request. It is false where the connection must be closed.
func (b *body) drain() bool {
	_, err := io.CopyN(io.Discard, b, maxDrain)
	return errors.Is(err, io.EOF) && (b.err == nil || errors.Is(b.err, io.EOF))
}

// readBody returns the request's body, in memory of its own.
func (s *Server) readBody(c *fiber.Ctx) ([]byte, error) {
	tooLarge := &session.Error{Code: CodeTooLarge, Message: fmt.Sprintf(
		"the body is larger than the %d bytes that server.body_limit allows", s.opts.BodyLimit)}
	if encoding := c.Get(fiber.HeaderContentEncoding); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, &session.Error{Code: CodeEncoding, Message: fmt.Sprintf("the body is encoded as %q; send it as it is", shown(encoding))}
	}
	if c.Request().Header.ContentLength() > s.opts.BodyLimit {
		return nil, tooLarge
	}
	b, ok := c.Locals(keyBody).(*body)
	if !ok {
		return nil, errors.New("request without a body's reader")
	}
	data, err := io.ReadAll(io.LimitReader(b, int64(s.opts.BodyLimit)+1))
	netErr, isNet := errors.AsType[net.Error](err)
	switch {
	case isNet && netErr.Timeout():
		return nil, fiber.ErrRequestTimeout
	case err != nil:
		return nil, malformed("the body broke off or is not in chunks as HTTP has them")
	case len(data) > s.opts.BodyLimit:
		return nil, tooLarge
	}
	return data, nil
}
