package gateway

import (
	"maps"
	"sync"
	"time"

	"claude-runner/agent"
)

// purseTime is how long a budget's spending is known that no lease names.
const purseTime = 48 * time.Hour

// ledger counts calls by meter and what was spent by budget.
type ledger struct {
	mu     sync.Mutex
	meters map[string]*Totals
	purses map[string]*purse
}

// purse is what was spent under a budget's name.
type purse struct {
	usd  float64
	used time.Time
}

func newLedger() *ledger {
	return &ledger{meters: map[string]*Totals{}, purses: map[string]*purse{}}
}

// declare takes in what was spent before.
func (l *ledger) declare(budgets []Budget) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, b := range budgets {
		p := l.purse(b.Name)
		p.usd, p.used = max(p.usd, b.SpentUSD), now
	}
	for name, p := range l.purses {
		if now.Sub(p.used) > purseTime {
			delete(l.purses, name)
		}
	}
}

func (l *ledger) purse(name string) *purse {
	p := l.purses[name]
	if p == nil {
		p = new(purse)
		l.purses[name] = p
	}
	return p
}

// meter returns the totals of the name, which are the caller's to give to
// record and exceeded only. What is forgotten meanwhile counts for nobody.
func (l *ledger) meter(name string) *Totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.meters[name]
	if m == nil {
		m = &Totals{ByModel: map[string]ModelTotals{}}
		l.meters[name] = m
	}
	return m
}

// begin counts a call that is under way, until the function that it returns is
// called.
func (l *ledger) begin(m *Totals) (end func()) {
	add := func(n int64) {
		l.mu.Lock()
		defer l.mu.Unlock()
		m.Active += n
	}
	add(1)
	return func() { add(-1) }
}

// refused counts a Refusal.
func (l *ledger) refused(meter string) {
	m := l.meter(meter)
	l.mu.Lock()
	defer l.mu.Unlock()
	m.Refused++
}

// exceeded returns the first budget that has no room, and notes it.
func (l *ledger) exceeded(m *Totals, budgets []Budget) *Exceeded {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range budgets {
		if p := l.purse(b.Name); p.usd >= b.LimitUSD {
			m.Exceeded = &Exceeded{Budget: b.Name, LimitUSD: b.LimitUSD, SpentUSD: p.usd}
			return m.Exceeded
		}
	}
	return nil
}

// fate is how a call ended.
type fate int

const (
	answered fate = iota // whole
	failed               // by an error status, or by none
	cut                  // before its end
)

// record counts one call.
func (l *ledger) record(m *Totals, c *config, how fate, u tally) {
	price, known := agent.PriceOf(c.prices, u.model)
	usd := price.Cost(u.Usage, u.hour)
	l.mu.Lock()
	defer l.mu.Unlock()
	m.Calls++
	switch how {
	case failed:
		m.Failed++
	case cut:
		m.Cut++
	case answered:
	}
	add(&m.Usage, u.Usage)
	m.CostUSD += usd
	by := m.ByModel[u.model]
	by.Calls++
	add(&by.Usage, u.Usage)
	by.CostUSD += usd
	by.Guessed = by.Guessed || !known
	m.ByModel[u.model] = by
	now := time.Now()
	for _, b := range c.Budgets {
		p := l.purse(b.Name)
		p.usd, p.used = p.usd+usd, now
	}
}

func add(to *agent.Usage, u agent.Usage) {
	to.InputTokens += u.InputTokens
	to.OutputTokens += u.OutputTokens
	to.CacheReadInputTokens += u.CacheReadInputTokens
	to.CacheCreationInputTokens += u.CacheCreationInputTokens
}

func (l *ledger) totals(name string) Totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.meters[name]
	if m == nil {
		return Totals{ByModel: map[string]ModelTotals{}}
	}
	out := *m
	out.ByModel = maps.Clone(m.ByModel)
	if m.Exceeded != nil {
		exceeded := *m.Exceeded
		out.Exceeded = &exceeded
	}
	return out
}

func (l *ledger) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.meters, name)
}
