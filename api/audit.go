package api

import (
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"claude-runner/session"
)

// record is what the audit will be told of a request.
type record struct {
	session.AuditEntry
	written bool // by who did it, together with what it did
}

// newRecord begins a request's record.
func newRecord(c *fiber.Ctx, r route, who caller) *record {
	rec := &record{AuditEntry: session.AuditEntry{
		RequestID: requestID(c), KeyID: who.KeyID, KeyName: who.Name, Remote: c.IP(), Action: r.action,
	}}
	if id, err := sessionID(c); err == nil {
		rec.Session = id
	}
	if id, err := taskID(c); err == nil {
		rec.Task = id
	}
	return rec
}

// recordOf returns the request's record, for a handler that knows more of it.
func recordOf(c *fiber.Ctx) *record {
	rec, ok := c.Locals(keyRecord).(*record)
	if !ok {
		panic("api: a route that nothing guards")
	}
	return rec
}

// concerns fills in whose task it was.
func (r *record) concerns(t session.Task) {
	r.Session, r.Task, r.Agent = t.SessionID, t.ID, t.Agent
}

// tellAudit writes down what came of a request, and returns the error to answer
// with: what changed something is not acknowledged before it is written.
func (s *Server) tellAudit(c *fiber.Ctx, r route, rec *record, err error) error {
	if r.action == "" || rec.written {
		return err
	}
	rec.Status = c.Response().StatusCode()
	if err != nil {
		rec.Code = asError(c, err).Code
		rec.Status = Status(rec.Code)
	}
	told := s.manager.Audit(s.root, rec.AuditEntry, r.scope != session.ScopeRead)
	if told == nil {
		return err
	}
	s.log.Error("the audit could not be written", "request_id", rec.RequestID, "action", rec.Action, "error", cause(told))
	if err == nil && r.scope != session.ScopeRead {
		return told
	}
	return err
}

// auditView is an entry of the audit on the wire.
type auditView struct {
	Seq       int64        `json:"seq"`
	Time      time.Time    `json:"time"`
	RequestID string       `json:"requestId,omitempty"`
	KeyID     string       `json:"keyId,omitempty"`
	KeyName   string       `json:"keyName,omitempty"`
	Remote    string       `json:"remote,omitempty"`
	Action    string       `json:"action"`
	SessionID string       `json:"sessionId,omitempty"`
	TaskID    string       `json:"taskId,omitempty"`
	Agent     string       `json:"agent,omitempty"`
	Target    string       `json:"target,omitempty"`
	Status    int          `json:"status"`
	Code      session.Code `json:"code,omitempty"`
}

// auditPage is a page of the audit, the oldest first.
type auditPage struct {
	Entries []auditView `json:"entries"`
	Next    int64       `json:"next"` // to ask for the next page with, as after
	More    bool        `json:"more"`
}

const (
	defaultAudit = 100
	maxAudit     = 1000
)

// audit answers GET /audit?after=&limit=&session=&key=.
func (s *Server) audit(c *fiber.Ctx) error {
	q, err := query(c, "after", "limit", "session", "key")
	if err != nil {
		return err
	}
	aq := session.AuditQuery{Session: q.Get("session"), Key: q.Get("key"), Limit: defaultAudit}
	if aq.Session != "" && !session.ValidID(aq.Session) {
		return invalidID("session", aq.Session)
	}
	if q.Has("after") {
		if aq.After, err = strconv.ParseInt(q.Get("after"), 10, 64); err != nil || aq.After < 0 {
			return invalid("after", "want the seq of an entry, or 0 for all, got %q", shown(q.Get("after")))
		}
	}
	if q.Has("limit") {
		if aq.Limit, err = strconv.Atoi(q.Get("limit")); err != nil || aq.Limit < 1 || aq.Limit > maxAudit {
			return invalid("limit", "want a whole number from 1 to %d, got %q", maxAudit, shown(q.Get("limit")))
		}
	}
	limit := aq.Limit
	aq.Limit++
	entries, err := s.manager.AuditTrail(s.root, aq)
	if err != nil {
		return err
	}
	page := auditPage{Entries: []auditView{}, Next: aq.After, More: len(entries) > limit}
	for _, e := range entries[:min(limit, len(entries))] {
		page.Entries = append(page.Entries, auditView{
			Seq: e.Seq, Time: e.At, RequestID: e.RequestID, KeyID: e.KeyID, KeyName: e.KeyName, Remote: e.Remote,
			Action: e.Action, SessionID: e.Session, TaskID: e.Task, Agent: e.Agent, Target: e.Target, Status: e.Status, Code: e.Code,
		})
		page.Next = e.Seq
	}
	return c.JSON(page)
}
