package agent

import "encoding/json"

// EventType names what an event tells.
type EventType string

// What an agent's turn emits.
const (
	EventInit      EventType = "init"       // the turn has begun: Model, Tools, AgentID
	EventThinking  EventType = "thinking"   // Text: a piece of the model's thinking
	EventText      EventType = "text"       // Text: a piece of the answer
	EventToolStart EventType = "tool_start" // Tool, ToolID, Input
	EventToolEnd   EventType = "tool_end"   // Tool, ToolID, Result, IsError
	EventUsage     EventType = "usage"      // Usage of one model call
	EventStatus    EventType = "status"     // Status: what the task waits for
)

// Event is one thing that an agent did. Which fields are set depends on Type.
type Event struct {
	Type     EventType       `json:"type"`
	Text     string          `json:"text,omitempty"`
	Model    string          `json:"model,omitempty"`
	Tools    []string        `json:"tools,omitempty"`
	AgentID  string          `json:"agentSessionId,omitempty"`
	Tool     string          `json:"tool,omitempty"`
	ToolID   string          `json:"toolId,omitempty"`
	ParentID string          `json:"parentToolId,omitempty"` // the tool call of the subagent whose doing it is
	Input    json.RawMessage `json:"input,omitempty"`
	Result   string          `json:"result,omitempty"`
	IsError  bool            `json:"isError,omitempty"`
	Usage    *Usage          `json:"usage,omitempty"`
	Status   *Status         `json:"status,omitempty"`
}

// Status tells what a task waits for.
type Status struct {
	Phase   string `json:"phase"` // "boot", "pull", "retry"
	Message string `json:"message"`
	Attempt int    `json:"attempt,omitempty"` // of a retry, from 1
	Current int64  `json:"current,omitempty"` // bytes of a pull
	Total   int64  `json:"total,omitempty"`
	Ahead   *int   `json:"ahead,omitempty"` // agents that boot before this one
}
