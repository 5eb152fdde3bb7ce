package session

import (
	"context"
	"fmt"
	"slices"
	"time"

	"claude-runner/agent"
)

// Store keeps sessions, tasks and events. What returned nil is on disk.
// Methods may be called from any goroutine.
type Store interface {
	// Apply writes changes in their order, all or none of them. Where one of
	// them can't be made (its task has ended, its key is taken) the error is a
	// *ChangeError; any other error is the store's own trouble.
	Apply(ctx context.Context, changes []Change) error

	// Task and Session return ErrNotFound where there is none.
	Task(ctx context.Context, id string) (Task, error)
	Session(ctx context.Context, id string) (Session, error)
	// Sessions returns a page, the last used first, and the next page's cursor.
	Sessions(ctx context.Context, p Page) ([]Session, string, error)
	// Tasks returns a page, the newest first, and the next page's cursor, which
	// is "" at the end.
	Tasks(ctx context.Context, f TaskFilter) ([]Task, string, error)
	// Unfinished returns the tasks that have no end, in the order of submission.
	Unfinished(ctx context.Context) ([]Task, error)
	// Key returns what an idempotency key of a caller's stands for, or ErrNotFound.
	Key(ctx context.Context, callerID, name string) (Key, error)
	// Deliveries returns those of a task, the oldest first, without payloads and
	// secrets.
	Deliveries(ctx context.Context, taskID string) ([]Delivery, error)
	DeliveryQueue
	CallerStore
	// Usage sums what ended tasks have used.
	Usage(ctx context.Context, q UsageQuery) ([]UsageSum, error)

	// Spent returns what an agent's tasks have cost that ended since a moment.
	Spent(ctx context.Context, agent string, since time.Time) (float64, error)

	// SetBudget sets Session.BudgetUSD; ErrNotFound where there is no session.
	SetBudget(ctx context.Context, id string, usd *float64) error
	// ResetSession forgets the agent's memory of a session.
	ResetSession(ctx context.Context, id string, at time.Time) error
	// DeleteSession removes a session with its tasks, events and deliveries. What
	// they used stays known to Usage.
	DeleteSession(ctx context.Context, id string) error

	// Events returns up to limit events of a session with a number above after,
	// in order.
	Events(ctx context.Context, sessionID string, after int64, limit int) ([]Record, error)
	// LastSeq returns the highest number that an event of the session ever had,
	// deleted ones included, or 0.
	LastSeq(ctx context.Context, sessionID string) (int64, error)
	// LastStep returns the highest Record.Step of a task's events, or 0.
	LastStep(ctx context.Context, taskID string) (int64, error)
	// LastRefusal returns the number of the last agent.Refusal among a task's
	// events, and how many there are.
	LastRefusal(ctx context.Context, t Task) (seq, count int64, err error)
	// PruneEvents removes events of ended tasks: those before a moment, and of
	// each session those beyond the newest keep. It returns how many it removed.
	PruneEvents(ctx context.Context, before time.Time, keep int64) (int64, error)

	Close() error
}

// Page is which part of a list is wanted.
type Page struct {
	Limit  int    // 0: all
	Cursor string // as the page before gave it; "" begins with the first
	Owner  string // whose; "": all
}

// Change is what one thing that happened changes in the store.
type Change struct {
	Create *Creation // a task is submitted
	Update *Task     // a task moves on: State, Backend, StartedAt, TurnFrom. One that is starting counts steps anew
	End    *Ending   // a task ends
	Events []Record  // all of one session
	Audit  *AuditEntry
	Use    *KeyUse
}

// Creation is a new task, with its session where that is new.
type Creation struct {
	Session Session
	Task    Task
	Key     *Key // nil without one
}

// Ending is a task's end and what it changes in its session. The request's Env
// and Webhook are forgotten.
type Ending struct {
	Task     Task
	AgentID  string    // the agent's name of the conversation; "" leaves what is known
	Turns    int       // added to the session's
	Delivery *Delivery // tells a webhook of the end; nil without one
}

// Key is an idempotency key that a client gave with a task.
type Key struct {
	Caller string // the API key that the client called with; "": the runner's owner
	Name   string
	Hash   string // of the request
	TaskID string
	At     time.Time
}

// KeyLife is how long a Key is known.
const KeyLife = 24 * time.Hour

// Record is an event as it is stored and sent: Data is its JSON.
type Record struct {
	SessionID string
	Seq       int64
	TaskID    string
	Step      int64 // counts the events that the agent's turn emitted; 0 for the runner's own
	Time      time.Time
	Data      []byte
}

// ChangeError is a change that can't be made.
type ChangeError struct {
	Index int // among those given to Apply
	Err   error
}

func (e *ChangeError) Error() string { return fmt.Sprintf("change %d: %v", e.Index, e.Err) }
func (e *ChangeError) Unwrap() error { return e.Err }

// UsageQuery selects and groups what was used.
type UsageQuery struct {
	GroupBy  UsageGroup
	From, To time.Time // of the tasks' ends; zero: no bound
	Owner    string    // "": of all
}

// UsageGroup is what usage is summed by.
type UsageGroup string

// What usage can be summed by.
const (
	ByAgent   UsageGroup = "agent"
	BySession UsageGroup = "session"
	ByModel   UsageGroup = "model"
	ByBackend UsageGroup = "backend"
	ByDay     UsageGroup = "day" // UTC
)

// UsageGroups lists every UsageGroup.
var UsageGroups = []UsageGroup{ByAgent, BySession, ByModel, ByBackend, ByDay}

// Valid reports whether g is one of UsageGroups.
func (g UsageGroup) Valid() bool { return slices.Contains(UsageGroups, g) }

// UsageSum is what the tasks of one group used.
type UsageSum struct {
	Group    string
	Tasks    int64
	CostUSD  float64
	Duration time.Duration // from start to end, added up
	Usage    agent.Usage
}
