package session

import (
	"errors"
	"fmt"
	"time"

	"claude-runner/agent"
)

// Code names a failure for programs. The codes of agent.Error are used as
// they are.
type Code string

// The codes of this package's errors and of failed tasks.
const (
	CodeInvalid        Code = "invalid_request"
	CodeNoSession      Code = "session_not_found"
	CodeNoTask         Code = "task_not_found"
	CodeNoAgent        Code = "agent_not_found"
	CodeNoBackendNamed Code = "backend_not_found"
	CodeForeign        Code = "session_forbidden"      // the session is another key's
	CodeRateLimited    Code = "rate_limited"           // try again after RetryAfter
	CodeAgentFixed     Code = "agent_fixed"            // the session belongs to another agent
	CodeQueueFull      Code = "queue_full"             // try again after RetryAfter
	CodeKeyReused      Code = "idempotency_key_reused" // the key came with another request before
	CodeShuttingDown   Code = "shutting_down"          // the runner is stopping
	CodeNoCredentials  Code = "no_credentials"
	CodeNoBackend      Code = "no_backend" // none of the profile's backends can start a sandbox
	CodeImage          Code = "image_not_found"
	CodeNetwork        Code = "network_failed" // the sandbox could not be let out as its profile says
	CodeTaskEnded      Code = "task_ended"
	CodeAborted        Code = "aborted"
	CodeTimedOut       Code = "timed_out"
	CodeBudget         Code = Code(agent.CodeBudget)
	CodeOutOfMemory    Code = "out_of_memory"
	CodeOutputLimit    Code = "output_limit" // more than Limits.Output
	CodeDiskLimit      Code = "disk_limit"   // more than Limits.Disk
	CodeSandboxKilled  Code = "sandbox_killed"
	CodeSandbox        Code = "sandbox_failed"
	CodeInterrupted    Code = "interrupted" // the runner ended while the task ran
	CodeStorage        Code = "storage_failed"
	CodeInternal       Code = "internal"
)

// Error is a refusal, with what to do about it.
type Error struct {
	Code       Code
	Message    string
	Field      string        // the field of the request that it is about
	RetryAfter time.Duration // when to try again
	Err        error         // the cause; may be nil
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns err's code, or CodeInternal.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

func errorf(code Code, message string) *Error { return &Error{Code: code, Message: message} }

func noSession(id string) *Error {
	return errorf(CodeNoSession, "there is no session "+quote(id)+"; POST /task with this sessionId makes one")
}

func noTask(id string) *Error { return errorf(CodeNoTask, "there is no task "+quote(id)) }

func quote(s string) string { return `"` + s + `"` }

// Errors of a Store.
var (
	ErrNotFound = errors.New("not found")
	ErrEnded    = errors.New("task has ended")
	ErrKeyTaken = errors.New("idempotency key is taken")
	// ErrNameTaken: another API key has the name.
	ErrNameTaken = errors.New("name is taken")
)

func storageError(doing string, err error) *Error {
	return &Error{Code: CodeStorage, Message: doing + ": the runner's database does not answer as it should; its log says more", Err: fmt.Errorf("%s: %w", doing, err)}
}
