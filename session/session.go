// Package session keeps sessions and runs their tasks: queues, limits,
// workspaces, the agents' lifecycle, and the log of what happened. It reaches
// sandboxes through package backends and agents through package agent, and
// knows nothing of HTTP or SQL.
package session

import (
	"encoding/json"
	"regexp"
	"time"

	"claude-runner/agent"
)

// Session is one conversation: a workspace, an agent's memory, and a queue.
type Session struct {
	ID        string
	Agent     string // the profile, fixed by the first task
	AgentID   string // the agent's own name of the conversation; "" before the first turn
	Turns     int    // turns that came to a result since the start or the last reset
	CostUSD   float64
	BudgetUSD *float64 // what its tasks may cost in all; nil: as its profile says
	CreatedAt time.Time
	UpdatedAt time.Time // when its last task was submitted or ended
	Owner     string    // the API key whose it is; "": the runner's owner
}

// State is where a session stands now, beside what is stored of it.
type State struct {
	Session
	Busy    bool   // a task of it is starting or running
	Queued  int    // tasks that wait
	Current string // the task that starts or runs; "" where none does
}

// TaskState is where a task stands. The last five are ends: a task has one of
// them once, and keeps it.
type TaskState string

// A task's states, in their order.
const (
	TaskQueued         TaskState = "queued"
	TaskStarting       TaskState = "starting"
	TaskRunning        TaskState = "running"
	TaskSucceeded      TaskState = "succeeded"
	TaskFailed         TaskState = "failed"
	TaskAborted        TaskState = "aborted"
	TaskTimedOut       TaskState = "timed_out"
	TaskBudgetExceeded TaskState = "budget_exceeded"
)

// TaskStates lists every state.
var TaskStates = []TaskState{
	TaskQueued, TaskStarting, TaskRunning,
	TaskSucceeded, TaskFailed, TaskAborted, TaskTimedOut, TaskBudgetExceeded,
}

// Ended reports whether s is an end.
func (s TaskState) Ended() bool {
	return s != TaskQueued && s != TaskStarting && s != TaskRunning
}

// Task is one message to a session's agent, and what came of it.
type Task struct {
	ID        string
	SessionID string
	Agent     string
	Backend   string // asked for, then the one that ran it; "" before it is chosen
	State     TaskState
	Request   Request
	Result    Result
	Sandbox   string // in which it runs, by its name; "" before it does
	TurnFrom  int64  // byte of the sandbox's output at which its turn begins
	CreatedAt time.Time
	StartedAt time.Time // zero while queued
	EndedAt   time.Time // zero before the end
	Owner     string    // the session's: who sees the task, and pays for it
}

// Request is what a task was asked to do.
type Request struct {
	Message string            `json:"message"`
	Context string            `json:"context,omitempty"`
	Backend string            `json:"backend,omitempty"` // "" leaves the choice to the profile
	Env     map[string]string `json:"env,omitempty"`     // may hold secrets: forgotten when the task ends, never shown
	// Webhook is told the task's end instead of the profile's; forgotten then,
	// never shown.
	Webhook *agent.Webhook `json:"-"`
}

// Result is what a task came to. Cost, usage and tools are filled for failed
// tasks too, as far as they are known.
type Result struct {
	Output       json.RawMessage `json:"output,omitempty"`      // the structured answer, a JSON object
	OutputError  string          `json:"outputError,omitempty"` // why there is no valid Output
	Text         string          `json:"text,omitempty"`        // the answer in words
	Error        *Failure        `json:"error,omitempty"`       // for every end but succeeded
	Model        string          `json:"model,omitempty"`
	Tools        []string        `json:"tools,omitempty"`
	Turns        int             `json:"turns,omitempty"`
	Usage        agent.Usage     `json:"usage"`
	CostUSD      float64         `json:"costUsd"`                // by the gateway's meter, where there is one
	AgentCostUSD *float64        `json:"agentCostUsd,omitempty"` // the agent's own figure, beside the meter's
	Duration     time.Duration   `json:"duration"`               // from the task's start to its end
	Resumed      bool            `json:"resumed,omitempty"`
	Warnings     []string        `json:"warnings,omitempty"` // what was asked for and could not be held
}

// Failure says why a task did not succeed.
type Failure struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// TaskFilter selects tasks; zero fields select all.
type TaskFilter struct {
	Owner     string
	SessionID string
	State     TaskState
	Agent     string
	Limit     int    // 1 to 500; 0 means 50
	Cursor    string // from the page before
}

var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@:+-]{0,127}$`)

// ValidID reports whether id may name a session: 1 to 128 letters, digits and
// ._@:+- with a letter or digit first. Such an id is safe as a folder's name.
func ValidID(id string) bool { return idForm.MatchString(id) }
