package api

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"

	"claude-runner/session"
)

// query reads the request's query. A parameter that is not among known, or
// there twice, is an error.
func query(c *fiber.Ctx, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(string(c.Request().URI().QueryString()))
	if err != nil {
		return nil, malformed("the query after '?' is not percent-encoded as it should be")
	}
	for name, all := range values {
		if !slices.Contains(known, name) {
			return nil, unknownField(name, "parameter", known)
		}
		if len(all) > 1 {
			return nil, invalid(name, "is there twice")
		}
	}
	return values, nil
}

// maxLimit bounds a page.
const maxLimit = 500

// taskFilter reads the query of GET /tasks.
func taskFilter(c *fiber.Ctx) (session.TaskFilter, error) {
	q, err := query(c, "sessionId", "status", "agent", "limit", "cursor")
	if err != nil {
		return session.TaskFilter{}, err
	}
	f := session.TaskFilter{
		SessionID: q.Get("sessionId"), State: session.TaskState(q.Get("status")),
		Agent: q.Get("agent"), Cursor: q.Get("cursor"),
	}
	if f.SessionID != "" && !session.ValidID(f.SessionID) {
		return f, invalidID("sessionId", f.SessionID)
	}
	if f.State != "" && !slices.Contains(session.TaskStates, f.State) {
		states := make([]string, len(session.TaskStates))
		for i, s := range session.TaskStates {
			states[i] = string(s)
		}
		return f, invalid("status", "%q is none; want one of %s", shown(string(f.State)), strings.Join(states, ", "))
	}
	f.Limit, err = pageLimit(q)
	return f, err
}

// pageLimit reads how much a page shall have; 0 where the query does not say.
func pageLimit(q url.Values) (int, error) {
	if !q.Has("limit") {
		return 0, nil
	}
	n, err := strconv.Atoi(q.Get("limit"))
	if err != nil || n < 1 || n > maxLimit {
		return 0, invalid("limit", "want a whole number from 1 to %d, got %q", maxLimit, shown(q.Get("limit")))
	}
	return n, nil
}

// sessionID returns the session that the request's path names. Clients may
// percent-encode it, since some of its characters mean something in a URL.
func sessionID(c *fiber.Ctx) (string, error) {
	id, err := url.PathUnescape(c.Params("sessionId"))
	if err != nil {
		return "", invalid("sessionId", "%q is not percent-encoded as it should be", shown(c.Params("sessionId")))
	}
	if !session.ValidID(id) {
		return "", invalidID("sessionId", id)
	}
	return id, nil
}

func invalidID(field, id string) error {
	return invalid(field, "%q will not do; want 1 to 128 letters, digits and ._@:+- beginning with a letter or digit", shown(id))
}

// taskID returns the task that the request's path names. What no task could be
// called is a task that is not there.
func taskID(c *fiber.Ctx) (string, error) {
	id, err := url.PathUnescape(c.Params("taskId"))
	if err != nil || !session.ValidID(id) {
		return "", &session.Error{Code: session.CodeNoTask, Message: "there is no task " + strconv.Quote(shown(c.Params("taskId")))}
	}
	return id, nil
}
