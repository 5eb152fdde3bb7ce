package api

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"claude-runner/session"
)

// eventsView is a page of a session's events.
type eventsView struct {
	Events []json.RawMessage `json:"events"`
	// Next is the seq to ask for the next page with, as after.
	Next int64 `json:"next"`
	// More: there are events behind this page.
	More bool `json:"more"`
	// Resync is the seq of the first event that there is, where some behind
	// after are no longer kept; else it is absent.
	Resync int64 `json:"resync,omitempty"`
}

const (
	defaultEvents = 500
	maxEvents     = 10000
)

// events answers GET /session/:sessionId/events?after=&limit= with what the
// session's stream told.
func (s *Server) events(c *fiber.Ctx) error {
	id, err := sessionID(c)
	if err != nil {
		return err
	}
	q, err := query(c, "after", "limit")
	if err != nil {
		return err
	}
	after, limit := int64(0), defaultEvents
	if q.Has("after") {
		if after, err = strconv.ParseInt(q.Get("after"), 10, 64); err != nil || after < 0 {
			return invalid("after", "want the seq of an event, or 0 for all, got %q", shown(q.Get("after")))
		}
	}
	if q.Has("limit") {
		if limit, err = strconv.Atoi(q.Get("limit")); err != nil || limit < 1 || limit > maxEvents {
			return invalid("limit", "want a whole number from 1 to %d, got %q", maxEvents, shown(q.Get("limit")))
		}
	}
	records, err := s.view(c).EventsAfter(s.root, id, after, limit+1)
	if err != nil {
		return err
	}
	view := eventsView{Events: []json.RawMessage{}, Next: after, More: len(records) > limit}
	if len(records) > 0 && records[0].Seq > after+1 {
		view.Resync = records[0].Seq
	}
	for _, r := range records[:min(limit, len(records))] {
		view.Events = append(view.Events, r.Data)
		view.Next = r.Seq
	}
	return c.JSON(view)
}

// usageView is what the tasks of one group used.
type usageView struct {
	Group                    string  `json:"group"`
	Tasks                    int64   `json:"tasks"`
	Cost                     float64 `json:"cost"`     // US dollars
	Duration                 int64   `json:"duration"` // milliseconds, added up
	InputTokens              int64   `json:"inputTokens"`
	OutputTokens             int64   `json:"outputTokens"`
	CacheReadInputTokens     int64   `json:"cacheReadInputTokens"`
	CacheCreationInputTokens int64   `json:"cacheCreationInputTokens"`
}

// usage answers GET /usage?group_by=&from=&to= with what ended tasks used.
func (s *Server) usage(c *fiber.Ctx) error {
	q, err := query(c, "group_by", "from", "to")
	if err != nil {
		return err
	}
	uq := session.UsageQuery{GroupBy: session.ByAgent}
	if q.Has("group_by") {
		uq.GroupBy = session.UsageGroup(q.Get("group_by"))
	}
	if !uq.GroupBy.Valid() {
		return invalid("group_by", "%q is none; want one of agent, session, model, backend, day", shown(string(uq.GroupBy)))
	}
	for name, target := range map[string]*time.Time{"from": &uq.From, "to": &uq.To} {
		if !q.Has(name) {
			continue
		}
		if *target, err = moment(q.Get(name)); err != nil {
			return invalid(name, "want a day such as 2026-01-31, or a time such as 2026-01-31T08:00:00Z, got %q", shown(q.Get(name)))
		}
	}
	sums, err := s.view(c).Usage(s.root, uq)
	if err != nil {
		return err
	}
	views := make([]usageView, len(sums))
	for i, u := range sums {
		views[i] = usageView{
			Group: u.Group, Tasks: u.Tasks, Cost: u.CostUSD, Duration: u.Duration.Milliseconds(),
			InputTokens: u.Usage.InputTokens, OutputTokens: u.Usage.OutputTokens,
			CacheReadInputTokens: u.Usage.CacheReadInputTokens, CacheCreationInputTokens: u.Usage.CacheCreationInputTokens,
		}
	}
	return c.JSON(views)
}

// moment reads a day, which begins at midnight UTC, or a time.
func moment(text string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t, nil
	}
	return time.Parse(time.RFC3339, text)
}
