// Package agent defines what runs in a sandbox: templates, profiles, the
// driver that turns a profile into a process and that process's output into
// events and a result. It knows nothing of backends' engines, sessions or HTTP.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"
)

// Driver runs one kind of agent. Its methods may be called from any goroutine.
type Driver interface {
	// Command returns the command that starts an agent. It may write into
	// l.Home and l.Run, and nowhere else. No part of a prompt and no secret is
	// in Command.Argv. What no agent can be started with is ErrInvalidLaunch.
	Command(l Launch) (Command, error)

	// Open begins the conversation with an agent that Command started.
	// The driver is then the only one to use stdin and stdout.
	Open(l Launch, stdin io.WriteCloser, stdout io.Reader) Conversation

	// SetEnv gives an agent that was started with Launch.Ahead, and has had no
	// turn yet, the environment of the task that it is to have: its tools see
	// it as if it had been in Launch.Env. It writes into l.Run, and nowhere else.
	// False: only a new start can give it env, since the agent itself would read
	// it, or has other programs that run already.
	SetEnv(l Launch, env map[string]string) (bool, error)
}

// Conversation is a living agent process: turns one after the other.
type Conversation interface {
	// Turn gives the agent one prompt and returns its result. emit is called
	// for each event, in order, from one goroutine, and not after Turn returns.
	// A slow emit slows the agent.
	//
	// When ctx ends, the driver interrupts the turn, waits a few seconds for
	// the agent's word on what it cost, and returns context.Cause(ctx).
	// What failed is an *Error otherwise. In both cases Result holds what is
	// known: cost, usage, text so far. A message of white space alone is
	// ErrEmptyMessage, and nothing was sent.
	//
	// After an error, Alive says whether another Turn may follow.
	Turn(ctx context.Context, t Turn, emit func(Event)) (Result, error)

	// Offset is the number of bytes of the agent's output that were read so far;
	// between two turns, those of the turns that have ended.
	Offset() int64

	// Ready is closed when the agent has booted, so that a turn would begin at
	// once, or has ended.
	Ready() <-chan struct{}

	// Rehearse has an agent that is ready, and has had no turn yet, go through
	// the motions of one, so that its first is as quick as later ones. Nothing of
	// it is told to anybody or stays in the agent's memory. The agent calls its
	// model, which should be a Lease with Rehearsal. An agent that can't rehearse
	// is no error; one that does not end it before ctx does, is.
	Rehearse(ctx context.Context) error

	// Alive reports whether the agent can take another turn.
	Alive() bool

	// Close closes the agent's input and waits until its output has ended, so
	// that its memory is written, or until ctx ends. It is idempotent.
	Close(ctx context.Context) error
}

// Errors that are the caller's mistake; match them with errors.Is.
var (
	ErrInvalidLaunch = errors.New("the agent cannot be started so")
	ErrEmptyMessage  = errors.New("the message is empty")
)

// ErrDetached, as the cause with which a Turn's context ends, leaves the agent
// to itself: the driver neither interrupts it nor closes its input, and Turn
// returns at once.
var ErrDetached = errors.New("the agent is left to itself")

// Folder is one folder as this host and as the sandbox see it.
type Folder struct {
	Host    string // path on this host
	Sandbox string // path in the sandbox
}

// Launch is all that a driver needs to start an agent.
type Launch struct {
	Profile  Profile
	Template *Template
	Model    string // full id; never empty
	Resume   string // the agent's own name of the conversation to go on with; empty: a new one
	NewID    string // a UUID for a new conversation

	// Recovered: an earlier process started the agent, and its output is read
	// again from its beginning. Its first TurnFrom bytes belong to turns that
	// have ended. Its input may be closed.
	Recovered bool
	TurnFrom  int64

	// Ahead: the agent starts before its first task is known, whose environment
	// Driver.SetEnv may give it.
	Ahead bool

	Workspace Folder // the agent's working folder
	Home      Folder // HOME: the agent's memory
	Run       Folder // files between runner and agent, which the agent reads

	Env map[string]string // the profile's and the task's environment, secrets revealed
	API ModelAPI

	// ModelOnly: the sandbox reaches nothing but the model, through the gateway.
	ModelOnly bool
}

// ModelAPI says where model calls go and with what credentials. At most one
// credential is set.
type ModelAPI struct {
	BaseURL    string // as the sandbox reaches it
	APIKey     Secret // sent as x-api-key
	AuthToken  Secret // sent as a bearer token
	OAuthToken Secret // of a Claude subscription
}

// HasCredentials reports whether any credential is set.
func (m ModelAPI) HasCredentials() bool {
	return m.APIKey != "" || m.AuthToken != "" || m.OAuthToken != ""
}

// Command starts an agent.
type Command struct {
	Argv []string
	Env  map[string]string // all of it, Launch.Env included
}

// Turn is one prompt.
type Turn struct {
	Message string
	Context string // comes before the message; may be empty
	// Sent: the agent was given the message by an earlier process, and this
	// one only reads what comes of it (see Launch.Recovered). Output that is
	// read again gives the same events again.
	Sent bool
	// Asked, where it is set, is called when the agent has asked its model, from
	// the goroutine of emit. An agent that does not tell never calls it.
	Asked func()
}

// Result is what a turn came to.
type Result struct {
	Text       string          // the agent's answer in words, or Structured as text
	Structured json.RawMessage // the answer that the agent gave by schema; nil without one
	AgentID    string          // the agent's own name of the conversation, for Launch.Resume
	Model      string          // the model that served most of it
	Tools      []string        // names of the tools used, each once, in order of first use
	Turns      int             // model round trips
	Usage      Usage           // this turn's, subagents included
	CostUSD    float64         // this turn's, as the agent reckons it
	Duration   time.Duration   // of the turn
}

// Usage counts tokens.
type Usage struct {
	InputTokens              int64 `json:"inputTokens"`
	OutputTokens             int64 `json:"outputTokens"`
	CacheReadInputTokens     int64 `json:"cacheReadInputTokens"`
	CacheCreationInputTokens int64 `json:"cacheCreationInputTokens"`
}

// ErrorCode says what sort of failure ended a turn.
type ErrorCode string

// The codes of Error.
const (
	CodeModelAuth        ErrorCode = "model_auth"         // the Messages API refused the credentials (401, 403)
	CodeModelRateLimited ErrorCode = "model_rate_limited" // 429
	CodeModelOverloaded  ErrorCode = "model_overloaded"   // 529
	CodeModelUnavailable ErrorCode = "model_unavailable"  // 5xx, or no connection
	CodeModelRejected    ErrorCode = "model_rejected"     // 400, 404, 413: the request will not do
	CodeMaxTurns         ErrorCode = "max_turns"          // Profile.MaxTurns reached
	CodeBudget           ErrorCode = "budget_exceeded"    // Profile.MaxBudgetUSD spent
	CodeOutput           ErrorCode = "output_retries"     // no valid structured output after the agent's own retries
	CodeStalled          ErrorCode = "stalled"            // nothing came for Profile.StallTimeout
	CodeMemoryLost       ErrorCode = "conversation_lost"  // Launch.Resume names no conversation
	CodeAgentExited      ErrorCode = "agent_exited"       // the process ended before its result
	CodeAgentFailed      ErrorCode = "agent_failed"       // anything else
)

// Error is a turn that failed.
type Error struct {
	Code    ErrorCode
	Message string // what happened and what to do
	Status  int    // the Messages API's HTTP status, where it was its answer; else 0
}

func (e *Error) Error() string { return e.Message }
