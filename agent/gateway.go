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
	// Forget drops it.
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
	ID      string        // the sandbox's name
	Session string        // whose sandbox it is
	Socket  string        // absolute path on this host; made anew where it is there
	Owner   backends.User // who may connect: the sandbox's user
	Token   Secret        // model calls must carry it; it is worth nothing elsewhere

	Upstreams []ModelAPI       // where model calls go: the first, unless it refuses for now
	Models    []string         // that may be called; empty: any
	Prices    map[string]Price // by model id; a model without one costs as the dearest

	Meter   string   // what calls are counted under from now on
	Budgets []Budget // each must have room before a call

	Network NetworkMode
	Egress  []EgressRule
}

// Budget bounds what model calls may cost. Leases share the budgets of one
// Name.
type Budget struct {
	Name     string
	LimitUSD float64
	// SpentUSD is what was spent in all when the lease was made. The gateway
	// goes by its own count where that is higher.
	SpentUSD float64
}

// Totals are what was counted under one meter.
type Totals struct {
	Calls   int64 // model calls answered
	Failed  int64 // refused, by the gateway or the model API
	Cut     int64 // that did not come to their end; what was announced of them is counted
	Active  int64 // under way now
	Refused int64 // Refusals

	Usage    Usage
	CostUSD  float64
	ByModel  map[string]ModelTotals
	Unpriced []string  // models that had no price
	Exceeded *Exceeded // nil while no budget refused a call
}

// ModelTotals are one model's part of Totals.
type ModelTotals struct {
	Calls   int64
	Usage   Usage
	CostUSD float64
}

// Exceeded is the budget that refused a call.
type Exceeded struct {
	Budget   string // its Name
	LimitUSD float64
	SpentUSD float64
}

// Refusal is a request of a sandbox that its lease does not allow.
type Refusal struct {
	Seq    int64     `json:"seq"`
	Time   time.Time `json:"time"`
	Meter  string    `json:"-"`
	Method string    `json:"method"`
	Target string    `json:"target"` // host:port
	Reason string    `json:"reason"`
	Rule   string    `json:"rule,omitempty"` // what would allow it, as YAML; "" where nothing can
}
