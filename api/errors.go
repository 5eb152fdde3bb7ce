package api

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"claude-runner/agent"
	"claude-runner/session"
)

// The codes of this package's own errors.
const (
	CodeUnauthorized session.Code = "unauthorized"
	CodeForbidden    session.Code = "forbidden" // the key lacks a scope
	CodeOrigin       session.Code = "origin_not_allowed"
	CodeHost         session.Code = "host_not_allowed"
	CodeNoRoute      session.Code = "route_not_found"
	CodeMethod       session.Code = "method_not_allowed"
	CodeTooSlow      session.Code = "request_timeout"
	CodeTooLarge     session.Code = "body_too_large"
	CodeEncoding     session.Code = "unsupported_encoding"
	CodeUpgrade      session.Code = "upgrade_required"
	CodeHeaders      session.Code = "headers_too_large"
)

// statuses gives every code its HTTP status: 4xx where the client can mend it,
// 502 where the agent or its sandbox failed, 503 where the runner can't do it
// now.
var statuses = map[session.Code]int{
	session.CodeInvalid:        http.StatusBadRequest,
	session.CodeNoSession:      http.StatusNotFound,
	session.CodeNoTask:         http.StatusNotFound,
	session.CodeNoAgent:        http.StatusNotFound,
	session.CodeNoBackendNamed: http.StatusNotFound,
	session.CodeAgentFixed:     http.StatusConflict,
	session.CodeTaskEnded:      http.StatusConflict,
	session.CodeAborted:        http.StatusConflict,
	session.CodeKeyReused:      http.StatusUnprocessableEntity,
	session.CodeBudget:         http.StatusPaymentRequired,
	session.CodeQueueFull:      http.StatusTooManyRequests,
	session.CodeRateLimited:    http.StatusTooManyRequests,
	session.CodeForeign:        http.StatusForbidden,
	session.CodeShuttingDown:   http.StatusServiceUnavailable,
	session.CodeInterrupted:    http.StatusServiceUnavailable, // the same task again may do
	session.CodeNoCredentials:  http.StatusServiceUnavailable,
	session.CodeNoBackend:      http.StatusServiceUnavailable,
	session.CodeImage:          http.StatusServiceUnavailable,
	session.CodeTimedOut:       http.StatusGatewayTimeout,
	session.CodeOutOfMemory:    http.StatusBadGateway,
	session.CodeOutputLimit:    http.StatusBadGateway,
	session.CodeDiskLimit:      http.StatusBadGateway,
	session.CodeSandboxKilled:  http.StatusBadGateway,
	session.CodeNetwork:        http.StatusServiceUnavailable,
	session.CodeSandbox:        http.StatusBadGateway,
	session.CodeStorage:        http.StatusInternalServerError, // no waiting mends a full disk
	session.CodeInternal:       http.StatusInternalServerError,

	// The model's 429 is a 502 too: a 429 of the runner's is about its own queue.
	session.Code(agent.CodeModelAuth):        http.StatusBadGateway,
	session.Code(agent.CodeModelRateLimited): http.StatusBadGateway,
	session.Code(agent.CodeModelOverloaded):  http.StatusBadGateway,
	session.Code(agent.CodeModelUnavailable): http.StatusBadGateway,
	session.Code(agent.CodeModelRejected):    http.StatusBadGateway,
	session.Code(agent.CodeMaxTurns):         http.StatusBadGateway,
	session.Code(agent.CodeOutput):           http.StatusBadGateway,
	session.Code(agent.CodeStalled):          http.StatusBadGateway,
	session.Code(agent.CodeMemoryLost):       http.StatusBadGateway,
	session.Code(agent.CodeAgentExited):      http.StatusBadGateway,
	session.Code(agent.CodeAgentFailed):      http.StatusBadGateway,

	CodeUnauthorized: http.StatusUnauthorized,
	CodeForbidden:    http.StatusForbidden,
	CodeOrigin:       http.StatusForbidden,
	CodeHost:         http.StatusForbidden,
	CodeNoRoute:      http.StatusNotFound,
	CodeMethod:       http.StatusMethodNotAllowed,
	CodeTooSlow:      http.StatusRequestTimeout,
	CodeTooLarge:     http.StatusRequestEntityTooLarge,
	CodeEncoding:     http.StatusUnsupportedMediaType,
	CodeUpgrade:      http.StatusUpgradeRequired,
	CodeHeaders:      http.StatusRequestHeaderFieldsTooLarge,
}

// Status returns code's HTTP status; a code that is not known is 500.
func Status(code session.Code) int {
	if status, ok := statuses[code]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// errorBody is how every error looks on the wire.
type errorBody struct {
	Error     string       `json:"error"` // what went wrong and what to do
	Code      session.Code `json:"code"`
	Field     string       `json:"field,omitempty"`     // of the request
	RequestID string       `json:"requestId,omitempty"` // to be found in the log
}

// invalid is a mistake in a request's field.
func invalid(field, format string, args ...any) *session.Error {
	return &session.Error{Code: session.CodeInvalid, Field: field, Message: field + ": " + fmt.Sprintf(format, args...)}
}

// malformed is a request that can't be read.
func malformed(format string, args ...any) *session.Error {
	return &session.Error{Code: session.CodeInvalid, Message: fmt.Sprintf(format, args...)}
}

// fail answers with err. An error that nothing is known of is logged whole and
// shown as a sentence.
func (s *Server) fail(c *fiber.Ctx, err error) {
	e := asError(c, err)
	body := errorBody{Error: e.Message, Code: e.Code, Field: e.Field}
	status := Status(e.Code)
	if status == http.StatusInternalServerError {
		body.RequestID = requestID(c)
		s.log.Error("request failed", "request_id", body.RequestID, "error", cause(err))
	}
	s.answerError(c, status, e.RetryAfter, body)
}

// answerError writes an error's body, and the headers that go with its status.
func (s *Server) answerError(c *fiber.Ctx, status int, retryAfter time.Duration, body any) {
	switch status {
	case http.StatusUnauthorized:
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="claude-runner"`)
	case http.StatusUpgradeRequired:
		c.Set(fiber.HeaderUpgrade, "websocket")
		c.Set(fiber.HeaderSecWebSocketVersion, "13")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if retryAfter > 0 {
			c.Set(fiber.HeaderRetryAfter, strconv.Itoa(int(math.Ceil(retryAfter.Seconds()))))
		}
	}
	setHeaders(c)
	if err := c.Status(status).JSON(body); err != nil {
		s.log.Error("answer could not be encoded", "request_id", requestID(c), "error", err)
		c.Status(http.StatusInternalServerError)
	}
}

// cause returns the whole of an error whose message is meant for clients.
func cause(err error) error {
	if e, ok := errors.AsType[*session.Error](err); ok && e.Err != nil {
		return e.Err
	}
	return err
}

// asError gives err a code and words for the client.
func asError(c *fiber.Ctx, err error) *session.Error {
	if e, ok := errors.AsType[*session.Error](err); ok && e.Code != session.CodeInternal {
		return e
	}
	if e, ok := errors.AsType[*fiber.Error](err); ok {
		if out := ofHTTP(c, e); out != nil {
			return out
		}
	}
	return &session.Error{Code: session.CodeInternal, Message: "the runner failed; its log says more under request id " + requestID(c)}
}

// ofHTTP returns what fiber found wrong in the runner's words: fiber's own may
// quote the request, its secrets included.
func ofHTTP(c *fiber.Ctx, e *fiber.Error) *session.Error {
	method, path := c.Method(), shown(c.Path())
	switch e.Code {
	case http.StatusBadRequest:
		return malformed("the request is not HTTP as this server reads it")
	case http.StatusNotFound:
		return &session.Error{Code: CodeNoRoute, Message: fmt.Sprintf("there is nothing at %s %s", method, path)}
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return &session.Error{Code: CodeMethod, Message: fmt.Sprintf("%s can not be used with %s; the Allow header names what can", shown(method), path)}
	case http.StatusRequestTimeout:
		return &session.Error{Code: CodeTooSlow, Message: fmt.Sprintf("the request did not come in within %v", readTimeout)}
	case http.StatusUpgradeRequired:
		return errNoWebSocket
	case http.StatusRequestHeaderFieldsTooLarge:
		return &session.Error{Code: CodeHeaders, Message: fmt.Sprintf("the request's line and headers are more than %d KiB", headerLimit>>10)}
	}
	return nil
}

// shown cuts what a client sent to what fits into a sentence or a line of the
// log.
func shown(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
