package api

import (
	"encoding/json"
	"time"

	"claude-runner/agent"
	"claude-runner/backends"
	"claude-runner/session"
)

// taskView is a task on the wire. What the task was given as env and webhook is
// never shown.
type taskView struct {
	TaskID    string            `json:"taskId"`
	SessionID string            `json:"sessionId"`
	Agent     string            `json:"agent"`
	Backend   string            `json:"backend,omitempty"` // that ran it, or was asked for
	Status    session.TaskState `json:"status"`
	Message   string            `json:"message,omitempty"` // not in the answer to POST /task
	Context   string            `json:"context,omitempty"` // not in the answer to POST /task

	Output      json.RawMessage `json:"output"`                 // the structured answer; null where there is none
	OutputError string          `json:"output_error,omitempty"` // why not
	Response    string          `json:"response,omitempty"`     // the text, where there is no output
	Text        string          `json:"text,omitempty"`         // the answer in words
	Error       string          `json:"error,omitempty"`        // why it did not succeed
	Code        session.Code    `json:"code,omitempty"`

	Cost      float64     `json:"cost"`                // US dollars
	AgentCost *float64    `json:"agentCost,omitempty"` // the agent's own reckoning, beside the gateway's
	Duration  int64       `json:"duration"`            // milliseconds from its start to its end
	Tools     []string    `json:"tools"`               // used, each once
	Resumed   bool        `json:"resumed"`             // the agent had a memory of the session
	Model     string      `json:"model,omitempty"`
	Turns     int         `json:"turns"` // calls of the model
	Usage     agent.Usage `json:"usage"`
	Warnings  []string    `json:"warnings,omitempty"` // limits that could not be held

	CreatedAt time.Time `json:"createdAt"`
	StartedAt time.Time `json:"startedAt,omitzero"`
	EndedAt   time.Time `json:"endedAt,omitzero"`

	Deliveries []deliveryView `json:"deliveries,omitempty"` // in the answer to GET /task/:taskId alone
}

func viewTask(t session.Task) taskView {
	r := t.Result
	v := taskView{
		TaskID: t.ID, SessionID: t.SessionID, Agent: t.Agent, Backend: t.Backend, Status: t.State,
		Message: t.Request.Message, Context: t.Request.Context,
		Output: r.Output, OutputError: r.OutputError, Text: r.Text,
		Cost: r.CostUSD, AgentCost: r.AgentCostUSD, Duration: r.Duration.Milliseconds(), Tools: r.Tools, Resumed: r.Resumed,
		Model: r.Model, Turns: r.Turns, Usage: r.Usage, Warnings: r.Warnings,
		CreatedAt: t.CreatedAt, StartedAt: t.StartedAt, EndedAt: t.EndedAt,
	}
	if v.Tools == nil {
		v.Tools = []string{}
	}
	if r.Output == nil {
		v.Response = r.Text
	}
	if r.Error != nil {
		v.Error, v.Code = r.Error.Message, r.Error.Code
	}
	return v
}

// deliveryView is the message to a webhook on the wire.
type deliveryView struct {
	ID          string                `json:"id"`  // the receiver gets it as webhook-id
	URL         string                `json:"url"` // without its query
	Type        agent.EventType       `json:"type"`
	State       session.DeliveryState `json:"state"`
	Attempts    int                   `json:"attempts"`
	LastStatus  int                   `json:"lastStatus,omitempty"` // of the receiver's last answer
	LastError   string                `json:"lastError,omitempty"`
	CreatedAt   time.Time             `json:"createdAt"`
	NextAttempt time.Time             `json:"nextAttempt,omitzero"`
	DeliveredAt time.Time             `json:"deliveredAt,omitzero"`
	FailedAt    time.Time             `json:"failedAt,omitzero"` // when it was given up
}

func viewDeliveries(all []session.Delivery) []deliveryView {
	views := make([]deliveryView, len(all))
	for i, d := range all {
		views[i] = deliveryView{
			ID: d.ID, URL: d.Target(), Type: d.Type, State: d.State, Attempts: d.Attempts,
			LastStatus: d.LastStatus, LastError: d.LastError, CreatedAt: d.CreatedAt, NextAttempt: d.NextAttempt,
		}
		switch d.State {
		case session.DeliveryDelivered:
			views[i].DeliveredAt = d.EndedAt
		case session.DeliveryFailed:
			views[i].FailedAt = d.EndedAt
		}
	}
	return views
}

// tasksView is a page of GET /tasks, the newest first.
type tasksView struct {
	Tasks      []taskView `json:"tasks"`
	NextCursor string     `json:"nextCursor,omitempty"` // absent on the last page
}

// sessionView is a session on the wire.
type sessionView struct {
	SessionID   string    `json:"sessionId"`
	Agent       string    `json:"agent"`
	State       string    `json:"state"` // idle, queued or busy
	Busy        bool      `json:"busy"`  // a task is starting or running
	Queued      int       `json:"queued"`
	CurrentTask string    `json:"currentTask,omitempty"`
	Turns       int       `json:"turns"`               // tasks that succeeded since the start or the last reset
	Cost        float64   `json:"cost"`                // US dollars, of all its tasks
	BudgetUSD   *float64  `json:"budgetUsd,omitempty"` // what they may cost in all; absent: as the agent's profile says
	Created     time.Time `json:"created"`
	LastActive  time.Time `json:"lastActive"`
}

func viewSession(s session.State) sessionView {
	v := sessionView{
		SessionID: s.ID, Agent: s.Agent, State: "idle", Busy: s.Busy, Queued: s.Queued, CurrentTask: s.Current,
		Turns: s.Turns, Cost: s.CostUSD, BudgetUSD: s.BudgetUSD, Created: s.CreatedAt, LastActive: s.UpdatedAt,
	}
	switch {
	case s.Busy:
		v.State = "busy"
	case s.Queued > 0:
		v.State = "queued"
	}
	return v
}

// agentView is a profile on the wire: what a client may know of it.
type agentView struct {
	Name                string            `json:"name"`
	Description         string            `json:"description,omitempty"`
	Default             bool              `json:"default"`
	Model               string            `json:"model"`
	Backends            []string          `json:"backends"` // the first that is healthy runs it
	Image               string            `json:"image,omitempty"`
	Tools               []string          `json:"tools"`
	PermissionMode      string            `json:"permissionMode"`
	MaxTurns            int               `json:"maxTurns,omitempty"`
	MaxBudgetUSD        float64           `json:"maxBudgetUsd,omitempty"` // of a task
	MaxSessionBudgetUSD float64           `json:"maxSessionBudgetUsd,omitempty"`
	MaxDailyBudgetUSD   float64           `json:"maxDailyBudgetUsd,omitempty"`
	Models              []string          `json:"models,omitempty"` // others that may be called
	Network             agent.NetworkMode `json:"network"`
	Egress              []string          `json:"egress,omitempty"`      // what its tools may call, without secrets
	Timeout             int64             `json:"timeout"`               // milliseconds
	IdleTimeout         int64             `json:"idleTimeout,omitempty"` // milliseconds
	KeepWarm            int               `json:"keepWarm,omitempty"`
	Concurrency         int               `json:"concurrency,omitempty"`
	Limits              agent.Limits      `json:"limits"`

	Hardening    *backends.Hardening `json:"hardening,omitempty"`    // where a wall is down
	OutputSchema json.RawMessage     `json:"outputSchema,omitempty"` // the JSON schema of its output
}

func viewAgent(name string, p session.Profile, isDefault bool) agentView {
	v := agentView{
		Name: name, Description: p.Description, Default: isDefault, Model: p.Model,
		Backends: append([]string{}, p.Backend...), Image: p.Image,
		Tools: append([]string{}, p.Tools...), PermissionMode: p.PermissionMode,
		MaxTurns: p.MaxTurns, MaxBudgetUSD: p.MaxBudgetUSD,
		MaxSessionBudgetUSD: p.MaxSessionBudgetUSD, MaxDailyBudgetUSD: p.MaxDailyBudgetUSD,
		Models: p.Models, Network: p.Network,
		Timeout: p.Timeout.Milliseconds(), IdleTimeout: p.IdleTimeout.Milliseconds(),
		KeepWarm: p.KeepWarm, Concurrency: p.Concurrency, Limits: p.Limits,
	}
	for _, rule := range p.Egress {
		v.Egress = append(v.Egress, rule.String())
	}
	if len(p.Hardening.Loosened()) > 0 {
		v.Hardening = &p.Hardening
	}
	if p.Source != nil {
		v.OutputSchema = p.Source.Schema
	}
	return v
}

// backendView is a backend on the wire.
type backendView struct {
	Name         string                `json:"name"`
	Healthy      bool                  `json:"healthy"`
	Error        string                `json:"error,omitempty"` // how to mend it, where it is not healthy
	Version      string                `json:"version,omitempty"`
	Isolation    backends.Isolation    `json:"isolation"`
	Warning      string                `json:"warning,omitempty"`
	Notes        []string              `json:"notes,omitempty"` // what works less well than asked for
	Warm         []poolView            `json:"warm,omitempty"`  // of each agent that keeps some
	Capabilities backends.Capabilities `json:"capabilities"`
}

// poolView is how an agent's warm ones stand on a backend.
type poolView struct {
	Agent   string     `json:"agent"`
	Want    int        `json:"want"`
	Ready   int        `json:"ready"`
	Booting int        `json:"booting"`
	Error   string     `json:"error,omitempty"`   // why the last one could not be started
	RetryAt *time.Time `json:"retryAt,omitempty"` // when the next one is
}

// readinessView is the answer of POST /session/:sessionId/warm.
type readinessView struct {
	SessionID string `json:"sessionId"`
	Agent     string `json:"agent"`
	Backend   string `json:"backend,omitempty"` // where it stands ready
	State     string `json:"state"`
}

func viewBackend(b session.BackendState) backendView {
	v := backendView{
		Name: b.Name, Healthy: b.Healthy, Error: b.Error, Version: b.Status.Version, Notes: b.Status.Notes,
		Isolation: b.Capabilities.Isolation, Warning: b.Capabilities.Warning, Capabilities: b.Capabilities,
	}
	for _, p := range b.Pools {
		pool := poolView{Agent: p.Agent, Want: p.Want, Ready: p.Ready, Booting: p.Booting, Error: p.Error}
		if !p.RetryAt.IsZero() {
			pool.RetryAt = &p.RetryAt
		}
		v.Warm = append(v.Warm, pool)
	}
	return v
}

// healthView is the answer of GET /health.
type healthView struct {
	Status      string `json:"status"` // ok, or shutting_down with a 503
	Version     string `json:"version"`
	Uptime      int64  `json:"uptime"`      // seconds
	ActiveTasks int    `json:"activeTasks"` // that start or run
	QueuedTasks int    `json:"queuedTasks"`
}

// connectedView is the first event of a stream. It is the client's own: it has
// no number and is not stored.
type connectedView struct {
	Type      agent.EventType `json:"type"`
	Time      time.Time       `json:"time"`
	SessionID string          `json:"sessionId"`
	Busy      bool            `json:"busy"`
	Queued    int             `json:"queued"`
	Turns     int             `json:"turns"`
	Seq       int64           `json:"seq"` // of the last event before those that follow
}
