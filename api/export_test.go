package api

import (
	"context"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// Routes returns what s answers, as "GET /task/:taskId".
func (s *Server) Routes() []string {
	var out []string
	for _, r := range s.app.GetRoutes(true) {
		out = append(out, r.Method+" "+r.Path)
	}
	return out
}

// Scopes returns the scope of every route.
func (s *Server) Scopes() map[string]string {
	out := map[string]string{}
	for _, r := range s.table() {
		out[r.method+" "+r.path] = string(r.scope)
	}
	return out
}

// Identify finds out once who makes a request with an Authorization header.
func (s *Server) Identify(header string) error {
	c := s.app.AcquireCtx(&fasthttp.RequestCtx{})
	defer s.app.ReleaseCtx(c)
	c.Request().Header.Set(fiber.HeaderAuthorization, header)
	_, err := s.access.identify(context.Background(), c, route{})
	return err
}

// Bearer is bearer.
var Bearer = bearer

// SignStreamToken and ReadStreamToken write and read a token.
func SignStreamToken(secret []byte, session, bound string, expires time.Time) string {
	return streamToken{session, bound, expires}.sign(secret)
}

func ReadStreamToken(secret []byte, text string) (session, bound string, expires time.Time, ok bool) {
	t, ok := readStreamToken(secret, text)
	return t.session, t.bound, t.expires, ok
}
