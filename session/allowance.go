package session

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// KeyBudget is what the tasks of a key may cost, and have cost, in a day.
type KeyBudget struct {
	KeyID    string
	LimitUSD float64   // 0: no limit
	SpentUSD float64   // by tasks that ended since midnight UTC
	RenewsAt time.Time // the next midnight UTC
}

// Over reports whether nothing is left.
func (b KeyBudget) Over() bool { return b.LimitUSD > 0 && b.SpentUSD >= b.LimitUSD }

// KeyBudget returns how the key stands that owns a task (Task.Owner). An owner
// without a limit, "" among them, has LimitUSD 0.
func (m *Manager) KeyBudget(ctx context.Context, owner string) (KeyBudget, error) {
	midnight := m.opts.Now().UTC().Truncate(24 * time.Hour)
	b := KeyBudget{KeyID: owner, RenewsAt: midnight.Add(24 * time.Hour)}
	if owner == "" {
		return b, nil
	}
	key, ok, err := m.keys.get(ctx, owner)
	if err != nil || !ok || key.BudgetUSD == 0 {
		return b, err
	}
	b.LimitUSD = key.BudgetUSD
	if b.SpentUSD, err = m.opts.Store.SpentSince(ctx, owner, midnight); err != nil {
		return b, storageError("read what a key has spent", err)
	}
	return b, nil
}

// checkBudget refuses a task for which its owner has no money left today.
func (m *Manager) checkBudget(ctx context.Context, owner string) error {
	b, err := m.KeyBudget(ctx, owner)
	if err != nil || !b.Over() {
		return err
	}
	return &Error{Code: CodeBudget, Message: fmt.Sprintf(
		"the key's tasks have cost $%.4f today, and its budget is $%.2f of a day; it renews at %s",
		b.SpentUSD, b.LimitUSD, b.RenewsAt.Format(time.RFC3339))}
}

// limiters hold how often each key may submit.
type limiters struct {
	mu    sync.Mutex
	byKey map[string]*rate.Limiter
}

// check counts a submit of c's. A key that was quiet for a minute may send a
// whole minute's submits at once.
func (l *limiters) check(c Caller) error {
	if c.Rate == 0 {
		return nil
	}
	l.mu.Lock()
	limiter := l.byKey[c.KeyID]
	if limiter == nil {
		if l.byKey == nil {
			l.byKey = map[string]*rate.Limiter{}
		}
		limiter = rate.NewLimiter(rate.Limit(float64(c.Rate)/60), c.Rate)
		l.byKey[c.KeyID] = limiter
	}
	l.mu.Unlock()
	r := limiter.Reserve()
	wait := r.Delay()
	if wait == 0 {
		return nil
	}
	r.Cancel()
	return &Error{Code: CodeRateLimited, RetryAfter: wait, Message: fmt.Sprintf(
		"this key may submit %d tasks per minute and has done so; try again in %v", c.Rate, wait.Round(time.Second)+time.Second)}
}
