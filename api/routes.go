package api

import (
	"net/http"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"

	"claude-runner/session"
)

// anyone is the scope of what is answered to everybody, without a key.
const anyone session.Scope = "anyone"

// route is one thing that the server answers.
type route struct {
	method, path string
	scope        session.Scope // that a caller must have
	action       string        // what the audit calls it; "": it is not written down
	handler      fiber.Handler
}

// table lists what the server answers, each with the scope that it takes.
func (s *Server) table() []route {
	const read, submit, admin = session.ScopeRead, session.ScopeSubmit, session.ScopeAdmin
	routes := []route{
		{http.MethodGet, "/health", anyone, "", s.health},
		{http.MethodGet, "/livez", anyone, "", s.alive},
		{http.MethodGet, "/readyz", anyone, "", s.ready},
		{http.MethodGet, "/openapi.yaml", anyone, "", s.openapi},
		{http.MethodGet, "/docs", anyone, "", s.docs},

		{http.MethodPost, "/task", submit, "submit", s.submit},
		{http.MethodGet, "/tasks", read, "read.tasks", s.tasks},
		{http.MethodGet, "/task/:taskId", read, "read.task", s.task},
		{http.MethodDelete, "/task/:taskId", submit, "cancel", s.cancelTask},
		{http.MethodPost, "/task/:sessionId/abort", submit, "abort", s.abort},

		{http.MethodGet, "/sessions", read, "read.sessions", s.sessions},
		{http.MethodGet, "/session/:sessionId", read, "read.session", s.session},
		{http.MethodPatch, "/session/:sessionId", admin, "change", s.changeSession},
		{http.MethodDelete, "/session/:sessionId", submit, "delete", s.deleteSession},
		{http.MethodPost, "/session/:sessionId/reset", submit, "reset", s.resetSession},
		{http.MethodPost, "/session/:sessionId/warm", submit, "warm", s.warmSession},
		{http.MethodGet, "/session/:sessionId/events", read, "read.events", s.events},
		{http.MethodPost, "/session/:sessionId/stream-token", read, "stream_token", s.streamToken},
		{http.MethodGet, streamPath, read, "read.stream", s.stream},
		{http.MethodGet, "/usage", read, "read.usage", s.usage},

		{http.MethodGet, "/agents", read, "", s.agents},
		{http.MethodGet, "/backends", admin, "", s.backends},
		{http.MethodGet, "/audit", admin, "read.audit", s.audit},
	}
	if s.opts.Metrics != nil {
		routes = append(routes, route{http.MethodGet, "/metrics", admin, "", adaptor.HTTPHandler(s.opts.Metrics)})
	}
	return routes
}

// streamPath is the one route that takes a stream token.
const streamPath = "/stream/:sessionId"

// register lays out the table. What is not in it is answered to those alone who
// may call.
func (s *Server) register() {
	for _, r := range s.table() {
		handler := s.guard(r)
		if r.method == http.MethodGet {
			s.app.Get(r.path, handler) // and HEAD
			continue
		}
		s.app.Add(r.method, r.path, handler)
	}
	s.app.Use(func(c *fiber.Ctx) error {
		if _, err := s.access.identify(s.root, c, route{}); err != nil {
			return err
		}
		return c.Next()
	})
}

// guard lets those through to a route who have its scope, and has the audit
// told what came of it.
func (s *Server) guard(r route) fiber.Handler {
	if r.scope == anyone {
		return r.handler
	}
	return func(c *fiber.Ctx) error {
		who, err := s.access.identify(s.root, c, r)
		if err != nil {
			return err
		}
		c.Locals(keyCaller, who)
		rec := newRecord(c, r, who)
		c.Locals(keyRecord, rec)
		panicked := true
		defer func() {
			if panicked {
				_ = s.tellAudit(c, r, rec, &session.Error{Code: session.CodeInternal}) // logged
			}
		}()
		if who.May(r.scope) {
			err = r.handler(c)
		} else {
			err = &session.Error{Code: CodeForbidden, Message: "this key lacks the scope " + string(r.scope) +
				", which " + r.method + " " + r.path + " takes; use one that was made with --scopes " + string(r.scope)}
		}
		panicked = false
		return s.tellAudit(c, r, rec, err)
	}
}

// callerOf returns who makes the request.
func callerOf(c *fiber.Ctx) caller {
	who, ok := c.Locals(keyCaller).(caller)
	if !ok {
		panic("api: a route that nothing guards")
	}
	return who
}

// view returns the manager as the request's caller sees it.
func (s *Server) view(c *fiber.Ctx) session.View { return s.manager.View(callerOf(c).Caller) }
