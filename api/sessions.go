package api

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"

	"claude-runner/session"
)

// sessions answers GET /sessions, the last used first: all of them or, with
// ?limit=, a page, whose Link header leads to the next one.
func (s *Server) sessions(c *fiber.Ctx) error {
	q, err := query(c, "limit", "cursor")
	if err != nil {
		return err
	}
	page := session.Page{Cursor: q.Get("cursor")}
	if page.Limit, err = pageLimit(q); err != nil {
		return err
	}
	some, next, err := s.view(c).Sessions(s.root, page)
	if err != nil {
		return err
	}
	views := make([]sessionView, len(some))
	for i, one := range some {
		views[i] = viewSession(one)
	}
	if next != "" {
		q.Set("cursor", next)
		c.Set(fiber.HeaderLink, "</sessions?"+q.Encode()+`>; rel="next"`)
	}
	return c.JSON(views)
}

// session answers GET /session/:sessionId.
func (s *Server) session(c *fiber.Ctx) error {
	id, err := sessionID(c)
	if err != nil {
		return err
	}
	state, err := s.view(c).Session(s.root, id)
	if err != nil {
		return err
	}
	return c.JSON(viewSession(state))
}

// deleteSession answers DELETE /session/:sessionId once nothing of it is left.
func (s *Server) deleteSession(c *fiber.Ctx) error {
	id, err := sessionID(c)
	if err != nil {
		return err
	}
	if err := s.view(c).Delete(s.root, id); err != nil {
		return err
	}
	return c.JSON(fiber.Map{"sessionId": id, "deleted": id})
}

// changeSession answers PATCH /session/:sessionId.
func (s *Server) changeSession(c *fiber.Ctx) error {
	id, err := sessionID(c)
	if err != nil {
		return err
	}
	data, err := s.readBody(c)
	if err != nil {
		return err
	}
	budget, err := decodeBudget(data)
	if err != nil {
		return err
	}
	state, err := s.manager.SetBudget(s.root, id, budget)
	if err != nil {
		return err
	}
	return c.JSON(viewSession(state))
}

// resetSession answers POST /session/:sessionId/reset.
func (s *Server) resetSession(c *fiber.Ctx) error {
	id, err := sessionID(c)
	if err != nil {
		return err
	}
	if err := s.view(c).Reset(s.root, id); err != nil {
		return err
	}
	return c.JSON(fiber.Map{"sessionId": id, "reset": true})
}

// warmSession answers POST /session/:sessionId/warm once the session's agent is
// ready or, where the client does not want to wait, at once.
func (s *Server) warmSession(c *fiber.Ctx) error {
	id, err := sessionID(c)
	if err != nil {
		return err
	}
	data, err := s.readBody(c)
	if err != nil {
		return err
	}
	agent, async, err := decodeWarm(data)
	if err != nil {
		return err
	}
	r, err := s.view(c).Warm(s.root, id, agent, !async)
	if err != nil {
		return err
	}
	if r.State == session.AgentBooting {
		c.Status(http.StatusAccepted)
	}
	return c.JSON(readinessView(r))
}

// agents answers GET /agents, by name.
func (s *Server) agents(c *fiber.Ctx) error {
	profiles := s.view(c).Profiles()
	views := []agentView{}
	for _, name := range slices.Sorted(maps.Keys(profiles.ByName)) {
		views = append(views, viewAgent(name, profiles.ByName[name], name == profiles.Default))
	}
	return c.JSON(views)
}

// backends answers GET /backends, by name.
func (s *Server) backends(c *fiber.Ctx) error {
	views := []backendView{}
	for _, b := range s.manager.Backends(s.root) {
		views = append(views, viewBackend(b))
	}
	return c.JSON(views)
}

// health answers GET /health: 200 while tasks are taken.
func (s *Server) health(c *fiber.Ctx) error {
	load := s.manager.Load()
	view := healthView{
		Status: "ok", Version: s.opts.Version, Uptime: int64(time.Since(s.started).Seconds()),
		ActiveTasks: load.Running, QueuedTasks: load.Queued,
	}
	if load.Closing {
		view.Status = "shutting_down"
		c.Status(http.StatusServiceUnavailable)
	}
	return c.JSON(view)
}

// alive answers GET /livez: 200 as long as the process answers at all.
func (s *Server) alive(c *fiber.Ctx) error { return c.JSON(fiber.Map{"status": "ok"}) }

// ready answers GET /readyz: 200 while a task that is submitted now would be
// written down.
func (s *Server) ready(c *fiber.Ctx) error {
	if err := s.manager.Ready(); err != nil {
		return err
	}
	return c.JSON(fiber.Map{"status": "ok"})
}
