package agent

import (
	"context"
	"time"

	"claude-runner/backends"
)

// Gateway is a sandbox's only way out: per sandbox, a unix socket on this host
// over which model calls and requests of tools go. It puts the real credentials
// in, counts what model calls cost, and lets through what a Lease allows. Its
// methods may be called from any goroutine.
type Gateway interface {
	// Open lets a sandbox out, or changes how: a Lease of an ID that is open
	// already replaces all of it but its counters. What is under way goes on.
	Open(ctx context.Context, l Lease) error
	// Close ends a sandbox's connections and removes its socket. A lease that is
	// not open is no error.
	Close(ctx context.Context, leaseID string) error

	// Totals is what was counted under a meter so far; zero where nothing was.
	// Forget drops it, and what was spent under the meter's TaskBudget once no lease
	// is under that meter.
	Totals(ctx context.Context, meter string) (Totals, error)
	Forget(ctx context.Context, meter string) error

	// Refusals returns what a lease's sandbox was refused, numbered above after,
	// and waits until there is something or ctx ends. Of very many the oldest
	// are dropped.
	Refusals(ctx context.Context, leaseID string, after int64) ([]Refusal, error)

	// Leases names those that are open, an earlier process's among them.
	Leases(ctx context.Context) ([]OpenLease, error)
}

// OpenLease names a lease that is open.
type OpenLease struct {
	ID      string
	Session string
}

// Lease is what one sandbox may do outside.
type Lease struct {
	// ID is the sandbox's name. Opening a lease again replaces all of it but the
	// counters; calls that are on their way go on by the old one.
	ID string
	// Session is whose sandbox it is.
	Session string
	// Socket is the absolute path of the unix socket on this host. What is there
	// is removed, and the socket is removed by Close.
	Socket string
	// Owner may connect. Where the gateway runs as another user than root, and
	// the owner is neither that user nor zero, everybody may who reaches the folder.
	Owner backends.User
	// Token must come with model calls, as x-api-key or as a bearer token. It is
	// worth nothing elsewhere.
	Token Secret
	// Upstreams are tried in order, the next one where one is not reached or
	// answers 401, 429 or 529. Such a one comes last for as long as its
	// Retry-After says, or 30 seconds.
	Upstreams []ModelAPI
	// Models are the ids that may be called, dated versions included. Empty: any.
	Models []string
	// Meter is what calls are counted under from now on: a task's id.
	Meter string
	// Budgets must all have room before each call.
	Budgets []Budget
	// Prices by model id. Nil: DefaultPrices.
	Prices map[string]Price

	Network NetworkMode // empty: none
	Egress  []EgressRule

	// Rehearsal has model calls answered by the gateway itself, so that they cost
	// nothing and leave this host never: one that asks RehearsalQuestion with a
	// word, and any other with status 400.
	Rehearsal bool
}

// RehearsalQuestion is what an agent asks its model in a rehearsal.
const RehearsalQuestion = "Are you there?"

// Budget bounds what may be spent under a name, over all leases that name it.
type Budget struct {
	Name     string // such as a TaskBudget, "session:ID" or "agent:support:2026-11-25"
	LimitUSD float64
	// SpentUSD is what was spent before the gateway knew the name. Where it knows
	// of more, that counts.
	SpentUSD float64
}

// TaskBudget names the budget of all that is called under one meter.
func TaskBudget(meter string) string { return "task:" + meter }

// Totals are what was called under a meter. Who has read an answer finds it
// counted. A call that was tried again, by the gateway too, counts each time.
type Totals struct {
	Calls  int64 // all that were sent to a Messages API, reached or not
	Failed int64 // of them those with an error for an answer, or none
	Cut    int64 // of them those whose answer, or wait for one, ended early
	Active int64 // calls that are under way, and not yet counted

	// Usage and CostUSD are what the answers announced; a cut one until it ended.
	Usage   Usage
	CostUSD float64
	ByModel map[string]ModelTotals

	Refused int64 // Refusals that were told
	// Exceeded is the last refusal of a call for a budget.
	Exceeded *Exceeded
}

// ModelTotals are one model's part of Totals.
type ModelTotals struct {
	Calls   int64
	Usage   Usage
	CostUSD float64
	// Guessed: the price table lacks the model, and the dearest price counted.
	Guessed bool
}

// Exceeded is a budget without room.
type Exceeded struct {
	Budget   string // its name
	LimitUSD float64
	SpentUSD float64
}

// Refusal is a request of the forward proxy that was refused. The same one
// within ten seconds is not told again.
type Refusal struct {
	Seq    int64     `json:"seq"` // grows, over restarts of the gateway too
	Time   time.Time `json:"time"`
	Meter  string    `json:"meter,omitempty"`
	Method string    `json:"method"`
	Target string    `json:"target"` // host:port
	Reason string    `json:"reason"`
	Rule   string    `json:"rule,omitempty"` // the egress rule that would allow it, as YAML; empty: none does
}
