package gateway

import (
	"maps"
	"sync"
	"time"

	"claude-runner/agent"
)

const (
	purseTime = 48 * time.Hour // how long a budget's spending is known that no lease names
	sweepTime = time.Minute    // from one look for such to the next
)

// maxModels bounds Totals.ByModel.
const maxModels = 64

// ledger counts calls by meter and what was spent by budget.
type ledger struct {
	mu     sync.Mutex
	meters map[string]*meter
	purses map[string]*purse
	swept  time.Time     // when purses were last looked through
	change chan struct{} // has something after one; nil: nobody keeps the ledger
}

// meter is what was called under a name.
type meter struct {
	Totals
	Used time.Time
}

// purse is what was spent under a budget's name. Where nothing was, there is none.
type purse struct {
	USD  float64
	Used time.Time
}

func newLedger() *ledger {
	return &ledger{meters: map[string]*meter{}, purses: map[string]*purse{}}
}

// declare takes in what was spent before.
func (l *ledger) declare(budgets []Budget) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, b := range budgets {
		p := l.purse(b.Name, b.SpentUSD)
		if p != nil && (b.SpentUSD > p.USD || now.Sub(p.Used) > sweepTime) { // most are declared by task after task
			p.USD, p.Used = max(p.USD, b.SpentUSD), now
			l.changed()
		}
	}
	if now.Sub(l.swept) > sweepTime {
		l.swept = now
		maps.DeleteFunc(l.purses, func(_ string, p *purse) bool { return now.Sub(p.Used) > purseTime })
	}
}

// changed tells who keeps the ledger.
func (l *ledger) changed() {
	select {
	case l.change <- struct{}{}:
	default: // it is told already
	}
}

// purse returns the purse of the name for something to be put in; nil where
// there is none, and nothing to put in.
func (l *ledger) purse(name string, usd float64) *purse {
	p := l.purses[name]
	if p == nil && usd > 0 {
		p = new(purse)
		l.purses[name] = p
	}
	return p
}

// meter returns the meter of the name, which is the caller's to give to record
// and exceeded only. What is forgotten meanwhile counts for nobody.
func (l *ledger) meter(name string) *meter {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.meters[name]
	if m == nil {
		m = &meter{Totals: Totals{ByModel: map[string]ModelTotals{}}}
		l.meters[name] = m
	}
	return m
}

// begin counts a call that is under way, until the function that it returns is
// called.
func (l *ledger) begin(m *meter) (end func()) {
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
	m.Used = time.Now()
	l.changed()
}

// exceeded returns the first budget that has no room, and notes it.
func (l *ledger) exceeded(m *meter, budgets []Budget) *Exceeded {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range budgets {
		if p := l.purses[b.Name]; p != nil && p.USD >= b.LimitUSD {
			m.Exceeded = &Exceeded{Budget: b.Name, LimitUSD: b.LimitUSD, SpentUSD: p.USD}
			l.changed()
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
func (l *ledger) record(m *meter, c *config, how fate, u tally) {
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
	if _, ok := m.ByModel[u.model]; !ok && len(m.ByModel) >= maxModels {
		u.model = "others" // a sandbox can ask for any
	}
	by := m.ByModel[u.model]
	by.Calls++
	add(&by.Usage, u.Usage)
	by.CostUSD += usd
	by.Guessed = by.Guessed || !known
	m.ByModel[u.model] = by
	now := time.Now()
	for _, b := range c.Budgets {
		if p := l.purse(b.Name, usd); p != nil {
			p.USD, p.Used = p.USD+usd, now
		}
	}
	m.Used = now
	l.changed()
}

func add(to *agent.Usage, u agent.Usage) {
	to.InputTokens += u.InputTokens
	to.OutputTokens += u.OutputTokens
	to.CacheReadInputTokens += u.CacheReadInputTokens
	to.CacheCreationInputTokens += u.CacheCreationInputTokens
}

// totals reports whether the meter is known, too.
func (l *ledger) totals(name string) (Totals, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.meters[name]
	if m == nil {
		return Totals{ByModel: map[string]ModelTotals{}}, false
	}
	out := m.Totals
	out.ByModel = maps.Clone(m.ByModel)
	if m.Exceeded != nil {
		exceeded := *m.Exceeded
		out.Exceeded = &exceeded
	}
	return out, true
}

// forget drops a meter. Its task's budget stays while calls may still be made under
// it: they are not to find it new.
func (l *ledger) forget(name string, inUse bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.meters[name]; !ok {
		return
	}
	delete(l.meters, name)
	if !inUse {
		delete(l.purses, agent.TaskBudget(name))
	}
	l.changed()
}

// leave says that a lease makes no calls under the meter any more.
func (l *ledger) leave(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if budget := agent.TaskBudget(name); l.meters[name] == nil && l.purses[budget] != nil {
		delete(l.purses, budget)
		l.changed()
	}
}
