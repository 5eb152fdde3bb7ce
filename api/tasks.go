package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"claude-runner/session"
)

// submit answers POST /task: when the task has ended or, where the client
// prefers so, as soon as it is queued. The task does not need the client: one
// that hangs up finds it at GET /task/:taskId.
func (s *Server) submit(c *fiber.Ctx) error {
	data, err := s.readBody(c)
	if err != nil {
		return err
	}
	submission, async, err := decodeSubmission(data)
	if err != nil {
		return err
	}
	if submission.Key, err = idempotencyKey(c); err != nil {
		return err
	}
	submission.TraceParent = c.Get("Traceparent")
	rec := recordOf(c)
	if session.ValidID(submission.SessionID) {
		rec.Session = submission.SessionID
	}
	rec.Agent = shown(submission.Agent)
	submission.Audit = &rec.AuditEntry
	task, err := s.view(c).Submit(s.root, submission)
	if err != nil {
		return err
	}
	rec.written = true
	if prefersAsync(c) {
		async = true
		c.Set("Preference-Applied", "respond-async")
	}
	if async {
		c.Location("/task/" + task.ID)
		return c.Status(http.StatusAccepted).JSON(viewTask(task))
	}
	task, err = s.manager.Wait(s.root, task.ID) // the caller's own
	view := viewTask(task)
	view.Message, view.Context = "", "" // the client has just sent them
	if err != nil {
		e := asError(c, err)
		view.Error, view.Code = e.Message, e.Code
		s.answerError(c, Status(e.Code), e.RetryAfter, view)
		return nil
	}
	if task.State != session.TaskSucceeded {
		s.answerError(c, Status(view.Code), retryAfter[view.Code], view)
		return nil
	}
	return c.JSON(view)
}

// retryAfter is when a task that failed so may be submitted again.
var retryAfter = map[session.Code]time.Duration{session.CodeNoBackend: time.Second}

// maxKeyLength bounds an idempotency key, in bytes.
const maxKeyLength = 255

// idempotencyKey returns the request's key, or "".
func idempotencyKey(c *fiber.Ctx) (string, error) {
	key := c.Get("Idempotency-Key")
	if len(key) > maxKeyLength || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", invalid("Idempotency-Key", "want 1 to %d printable ASCII characters without spaces", maxKeyLength)
	}
	return key, nil
}

// prefersAsync reads the Prefer header of RFC 7240.
func prefersAsync(c *fiber.Ctx) bool {
	for preference := range strings.SplitSeq(c.Get("Prefer"), ",") {
		name, _, _ := strings.Cut(preference, ";")
		if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
			return true
		}
	}
	return false
}

// task answers GET /task/:taskId: at once or, with ?wait=30s, when the task has
// ended or that time is over.
func (s *Server) task(c *fiber.Ctx) error {
	id, err := taskID(c)
	if err != nil {
		return err
	}
	wait, err := waitTime(c)
	if err != nil {
		return err
	}
	if wait > 0 {
		ctx, cancel := context.WithTimeoutCause(s.root, wait, errWaitOver)
		defer cancel()
		if _, err := s.view(c).Wait(ctx, id); err != nil && session.CodeOf(err) == session.CodeNoTask {
			return err
		}
	}
	task, err := s.view(c).Task(s.root, id)
	if err != nil {
		return err
	}
	deliveries, err := s.view(c).Deliveries(s.root, id)
	if err != nil {
		return err
	}
	recordOf(c).concerns(task)
	view := viewTask(task)
	view.Deliveries = viewDeliveries(deliveries)
	return c.JSON(view)
}

var errWaitOver = errors.New("the time to wait is over")

// maxWait bounds how long GET /task/:taskId waits.
const maxWait = 2 * time.Minute

func waitTime(c *fiber.Ctx) (time.Duration, error) {
	q, err := query(c, "wait")
	if err != nil || !q.Has("wait") {
		return 0, err
	}
	d, err := time.ParseDuration(q.Get("wait"))
	if err != nil || d < 0 || d > maxWait {
		return 0, invalid("wait", "want a time from 0s to %v, such as 30s, got %q", maxWait, shown(q.Get("wait")))
	}
	return d, nil
}

// tasks answers GET /tasks.
func (s *Server) tasks(c *fiber.Ctx) error {
	filter, err := taskFilter(c)
	if err != nil {
		return err
	}
	tasks, next, err := s.view(c).Tasks(s.root, filter)
	if err != nil {
		return err
	}
	page := tasksView{Tasks: make([]taskView, len(tasks)), NextCursor: next}
	for i, t := range tasks {
		page.Tasks[i] = viewTask(t)
	}
	return c.JSON(page)
}

// cancelTask answers DELETE /task/:taskId once the task has ended.
func (s *Server) cancelTask(c *fiber.Ctx) error {
	id, err := taskID(c)
	if err != nil {
		return err
	}
	task, err := s.view(c).CancelTask(s.root, id)
	if task.ID != "" {
		recordOf(c).concerns(task)
	}
	if err != nil {
		return err
	}
	return c.JSON(viewTask(task))
}

// abort answers POST /task/:sessionId/abort once the session's tasks have
// ended.
func (s *Server) abort(c *fiber.Ctx) error {
	id, err := sessionID(c)
	if err != nil {
		return err
	}
	tasks, err := s.view(c).Abort(s.root, id)
	if err != nil {
		return err
	}
	return c.JSON(fiber.Map{"sessionId": id, "aborted": tasks})
}
