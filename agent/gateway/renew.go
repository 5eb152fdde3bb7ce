package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// renews reports whether l is old but for its meter and its budgets.
func renews(l, old Lease) bool {
	return l.ID == old.ID && l.Session == old.Session && l.Socket == old.Socket && l.Owner == old.Owner &&
		l.Token == old.Token && l.Network == old.Network && l.Rehearsal == old.Rehearsal &&
		slices.Equal(l.Upstreams, old.Upstreams) && slices.Equal(l.Models, old.Models) &&
		(l.Prices == nil) == (old.Prices == nil) && maps.Equal(l.Prices, old.Prices) &&
		(len(l.Egress)+len(old.Egress) == 0 || reflect.DeepEqual(l.Egress, old.Egress))
}

// renew is Open for a lease that goes on for another task: only its meter and
// its budgets change. The socket is not looked at.
func (g *Gateway) renew(_ context.Context, r question) error {
	if err := errors.Join(validateBudgets(r.Budgets)...); err != nil {
		return fmt.Errorf("renew a lease of the gateway: %w: %w", ErrInvalidLease, err)
	}
	g.mu.Lock()
	l := g.leases[r.Lease]
	g.mu.Unlock()
	if l == nil {
		return fmt.Errorf("renew %s: %w", r.Lease, ErrNoLease)
	}
	g.ledger.declare(r.Budgets)
	for {
		old := l.config.Load()
		c := *old
		c.Meter, c.Budgets = r.Meter, r.Budgets
		if l.config.CompareAndSwap(old, &c) {
			if old.Meter != c.Meter {
				g.ledger.leave(old.Meter)
			}
			return nil
		}
	}
}
