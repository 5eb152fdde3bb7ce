package session

import (
	"encoding/json"
	"time"

	"claude-runner/agent"
)

// The types of events that this package adds to the agent's.
const (
	EventConnected     agent.EventType = "connected"      // a stream has opened: Busy, TurnsDone
	EventTaskQueued    agent.EventType = "task_queued"    // Agent, Position
	EventTaskStart     agent.EventType = "task_start"     // Agent
	EventTaskComplete  agent.EventType = "task_complete"  // Output, Cost, Duration, Tools …
	EventTaskError     agent.EventType = "task_error"     // Error, Code, Cost, Duration
	EventAbort         agent.EventType = "abort"          // the task was aborted
	EventEgressRefused agent.EventType = "egress_refused" // Refusal: what the sandbox may not reach
)

// Event is one thing that happened in a session, as its stream tells it.
type Event struct {
	Seq       int64     `json:"seq"` // counts up by one in each session, and never repeats
	Time      time.Time `json:"time"`
	SessionID string    `json:"sessionId"`
	TaskID    string    `json:"taskId,omitempty"`
	agent.Event

	Agent       string          `json:"agent,omitempty"`
	Backend     string          `json:"backend,omitempty"`
	Position    *int            `json:"position,omitempty"` // tasks of the session ahead of this one
	Output      json.RawMessage `json:"output,omitempty"`
	OutputError string          `json:"output_error,omitempty"`
	Answer      string          `json:"answer,omitempty"`   // the answer in words
	Cost        *float64        `json:"cost,omitempty"`     // US dollars
	Duration    *int64          `json:"duration,omitempty"` // milliseconds
	Error       string          `json:"error,omitempty"`
	Code        Code            `json:"code,omitempty"`
	Warnings    []string        `json:"warnings,omitempty"`
	Refusal     *agent.Refusal  `json:"refusal,omitempty"`

	step int64 // as Record.Step
}

// endEvent tells a task's end.
func endEvent(t Task) Event {
	cost, ms := t.Result.CostUSD, t.Result.Duration.Milliseconds()
	e := Event{
		TaskID: t.ID, Agent: t.Agent, Backend: t.Backend, Cost: &cost, Duration: &ms, Warnings: t.Result.Warnings,
		Event: agent.Event{Type: EventTaskComplete, Tools: t.Result.Tools, Model: t.Result.Model, Usage: &t.Result.Usage},
	}
	switch t.State {
	case TaskSucceeded:
		e.Output, e.OutputError, e.Answer = t.Result.Output, t.Result.OutputError, t.Result.Text
	case TaskAborted:
		e.Type = EventAbort
	default:
		e.Type = EventTaskError
	}
	if f := t.Result.Error; f != nil {
		e.Error, e.Code = f.Message, f.Code
	}
	return e
}
