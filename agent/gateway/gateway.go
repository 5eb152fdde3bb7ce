// Package gateway is the only way out of a sandbox. Each sandbox has a unix
// socket of its own, which is its identity. Over it come, as plain HTTP/1.1,
//
//   - model calls in origin form (POST /v1/messages, POST
//     /v1/messages/count_tokens, GET /v1/models, HEAD /), which go on to the
//     Messages API with a real credential in place of the sandbox's worthless
//     one, are counted in tokens and dollars, and held to budgets;
//   - requests to a forward proxy (absolute form, and CONNECT), which go on where
//     the sandbox's egress rules allow it.
//
// A [Gateway] is one in this process, for tests. The runner uses [Start], which
// finds or starts a gateway in a process of its own: that one outlives the
// runner, so that a runner's crash cuts no answer of a model and loses no cost.
package gateway

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"claude-runner/agent"
)

// What package agent has for every gateway, under its names there.
type (
	// Lease is what one sandbox may do.
	Lease = agent.Lease
	// Budget bounds what may be spent.
	Budget = agent.Budget
	// Totals are what was called under a meter.
	Totals = agent.Totals
	// ModelTotals are one model's part of Totals.
	ModelTotals = agent.ModelTotals
	// Exceeded is a budget without room.
	Exceeded = agent.Exceeded
	// Refusal is a request of a tool that was refused.
	Refusal = agent.Refusal
	// OpenLease names a lease.
	OpenLease = agent.OpenLease
)

var (
	_ agent.Gateway = (*Gateway)(nil)
	_ agent.Gateway = (*Client)(nil)
)

// Errors to match with errors.Is.
var (
	ErrInvalidLease = errors.New("the lease will not do")
	ErrNoLease      = errors.New("no such lease")
)

// Resolver looks up names. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options are what a gateway needs.
type Options struct {
	// StateDir is the folder of the process that Start starts: its control
	// socket, its lock and its log. It is made where it is missing.
	StateDir string
	Log      *slog.Logger // nil: silent

	// For a Gateway of this process; the zero values are the system's own.
	Resolver Resolver
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	TLS      *tls.Config // of connections to hosts of egress rules with tls
}

// Gateway serves leases in this process. Its methods may be called from any
// goroutine.
type Gateway struct {
	options Options
	log     *slog.Logger
	ledger  *ledger
	ups     *upstreams
	own     ownAddresses

	opening sync.Mutex // one Open or Close at a time
	mu      sync.Mutex
	leases  map[string]*lease
	closed  bool
}

// New returns a gateway without leases. Shutdown ends it.
func New(options Options) *Gateway {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.Resolver == nil {
		options.Resolver = net.DefaultResolver
	}
	if options.Dial == nil {
		options.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	return &Gateway{
		options: options, log: options.Log, ledger: newLedger(),
		ups: newUpstreams(), leases: map[string]*lease{},
	}
}

// Open makes the lease's socket and serves it, or replaces the lease of the
// same ID. It does not where its turn comes only when ctx has ended: whoever asked
// may have been killed meanwhile, and the next one have closed what it left.
func (g *Gateway) Open(ctx context.Context, l Lease) error {
	if err := validate(l); err != nil {
		return fmt.Errorf("open a lease of the gateway: %w: %w", ErrInvalidLease, err)
	}
	g.opening.Lock()
	defer g.opening.Unlock()
	if ctx.Err() != nil {
		return fmt.Errorf("open a lease of the gateway: %w", context.Cause(ctx))
	}
	g.mu.Lock()
	known, closed := g.leases[l.ID], g.closed
	g.mu.Unlock()
	if closed {
		return errors.New("open a lease of the gateway: it is shut down")
	}
	g.ledger.declare(l.Budgets)
	c := newConfig(l)
	if known != nil {
		before := known.config.Load().Meter
		err := known.replace(c)
		if err == nil && before != l.Meter {
			g.ledger.leave(before)
		}
		return err
	}
	fresh, err := g.newLease(c)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.leases[l.ID] = fresh
	g.mu.Unlock()
	return nil
}

// Close ends the lease's connections, waits until what they cost is counted,
// and removes its socket. A lease that is not there is no error.
func (g *Gateway) Close(_ context.Context, leaseID string) error {
	g.opening.Lock()
	defer g.opening.Unlock()
	g.mu.Lock()
	l := g.leases[leaseID]
	delete(g.leases, leaseID)
	g.mu.Unlock()
	if l == nil {
		return nil
	}
	defer g.ledger.leave(l.config.Load().Meter)
	return l.close()
}

// Totals returns what was called under the meter: nothing, where it is not known.
func (g *Gateway) Totals(_ context.Context, meter string) (Totals, error) {
	t, _ := g.ledger.totals(meter)
	return t, nil
}

// Forget drops the meter's counters.
func (g *Gateway) Forget(_ context.Context, meter string) error {
	g.mu.Lock()
	inUse := false
	for _, l := range g.leases {
		inUse = inUse || l.config.Load().Meter == meter
	}
	g.mu.Unlock()
	g.ledger.forget(meter, inUse)
	return nil
}

// Refusals returns the lease's refusals after the given number, oldest first, as
// many as are kept; it waits for one until ctx ends, which is no error but
// ctx's. A lease that is closed is ErrNoLease.
func (g *Gateway) Refusals(ctx context.Context, leaseID string, after int64) ([]Refusal, error) {
	g.mu.Lock()
	l := g.leases[leaseID]
	g.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("refusals of %s: %w", leaseID, ErrNoLease)
	}
	return l.refusals.wait(ctx, after)
}

// Leases returns the leases, by ID.
func (g *Gateway) Leases(context.Context) ([]OpenLease, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	open := make([]OpenLease, 0, len(g.leases))
	for _, id := range slices.Sorted(maps.Keys(g.leases)) {
		open = append(open, OpenLease{ID: id, Session: g.leases[id].config.Load().Session})
	}
	return open, nil
}

// Shutdown closes all leases. It is idempotent.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	open, _ := g.Leases(ctx)
	var errs []error
	for _, l := range open {
		errs = append(errs, g.Close(ctx, l.ID))
	}
	g.ups.close()
	return errors.Join(errs...)
}

func validate(l Lease) error {
	var errs []error
	no := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if l.ID == "" {
		no("it has no ID")
	}
	if !filepath.IsAbs(l.Socket) || filepath.Base(l.Socket) == string(filepath.Separator) {
		no("its socket %q is no absolute path of a file", l.Socket)
	}
	if l.Token == "" {
		no("it has no token")
	}
	for _, api := range l.Upstreams {
		u, err := url.Parse(api.BaseURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			no("the base URL of a Messages API is none: write one such as https://api.anthropic.com") // not shown: it may hold a key
		}
		for _, secret := range []agent.Secret{api.APIKey, api.AuthToken, api.OAuthToken} {
			if strings.ContainsFunc(secret.Reveal(), func(r rune) bool { return r < ' ' || r > '~' }) {
				no("a credential of a Messages API has a character that a header cannot have, such as a line's end")
			}
		}
	}
	errs = append(errs, validateBudgets(l.Budgets)...)
	switch l.Network {
	case "", agent.NetworkNone, agent.NetworkAllowlist, agent.NetworkOpen:
	default:
		no("network %q: write none, allowlist or open", l.Network)
	}
	for _, rule := range l.Egress {
		if err := rule.Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func validateBudgets(budgets []Budget) (errs []error) {
	for _, b := range budgets {
		if b.Name == "" || !(b.LimitUSD > 0) || !(b.SpentUSD >= 0) {
			errs = append(errs, fmt.Errorf("budget %q: it needs a name, a limit above 0 and no negative spending; what has no limit is no budget", b.Name))
		}
	}
	return errs
}

// randomID names what must not be guessed or met twice.
func randomID() string { return rand.Text() }
