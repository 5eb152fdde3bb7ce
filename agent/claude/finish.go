package claude

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"claude-runner/agent"
)

// finish fills the turn's result from the CLI's, and returns why the turn failed.
func (t *turn) finish(m message) error {
	r := &t.result
	r.Duration = time.Since(t.begun)
	r.Turns = len(t.calls)
	t.account(m)

	err := t.failure(m)
	if err == nil {
		r.Text, r.Structured = m.Result, m.Structured
	} else {
		// The result's text is the error's then.
		r.Text = t.text.String()
	}
	return err
}

// account takes the turn's share from the process's totals.
func (t *turn) account(m message) {
	now := totals{cost: max(m.TotalCostUSD, 0), models: m.ModelUsage}
	share := now.since(t.c.count(now, agent.Usage(m.Usage)))
	t.result.CostUSD = math.Round(share.cost*1e9) / 1e9 // a difference of floats ends in nines
	t.result.Usage = share.usage()
	// The totals may leave out a call that was interrupted.
	if seen := t.observed(); tokens(seen) > tokens(t.result.Usage) {
		t.result.Usage = seen
	}
	if model := share.most(); model != "" {
		t.result.Model = model
	}
}

// count keeps a result's totals, and returns those that its turn began with.
// own is what the main agent used in the turn.
//
// The totals of a resumed conversation are counted from zero by some versions,
// and go on from its transcript's by others. Which it is, the first result
// tells: totals that go on hold the transcript's tokens and the turn's own.
func (c *conversation) count(now totals, own agent.Usage) totals {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.counted
	if c.results == 0 && tokens(now.usage()) >= tokens(c.restored.usage())+tokens(own) {
		before = c.restored
	}
	c.counted = now
	c.results++
	return before
}

// since is what was used after earlier totals.
func (now totals) since(before totals) totals {
	share := totals{cost: max(now.cost-before.cost, 0), models: map[string]modelUsage{}}
	for model, n := range now.models {
		b := before.models[model]
		share.models[model] = modelUsage{
			CostUSD: max(n.CostUSD-b.CostUSD, 0),
			Usage: agent.Usage{
				InputTokens:              max(n.InputTokens-b.InputTokens, 0),
				OutputTokens:             max(n.OutputTokens-b.OutputTokens, 0),
				CacheReadInputTokens:     max(n.CacheReadInputTokens-b.CacheReadInputTokens, 0),
				CacheCreationInputTokens: max(n.CacheCreationInputTokens-b.CacheCreationInputTokens, 0),
			},
		}
	}
	return share
}

func (now totals) usage() agent.Usage {
	var sum agent.Usage
	for _, n := range now.models {
		sum = add(sum, n.Usage)
	}
	return sum
}

// most is the model that was used for most, by cost and then by tokens.
func (now totals) most() string {
	models := slices.Sorted(maps.Keys(now.models))
	if len(models) == 0 {
		return ""
	}
	best := slices.MaxFunc(models, func(a, b string) int {
		x, y := now.models[a], now.models[b]
		return cmp.Or(cmp.Compare(x.CostUSD, y.CostUSD), cmp.Compare(tokens(x.Usage), tokens(y.Usage)))
	})
	if tokens(now.models[best].Usage) == 0 {
		return "" // used in an earlier turn alone
	}
	return best
}

func add(a, b agent.Usage) agent.Usage {
	return agent.Usage{
		InputTokens:              a.InputTokens + b.InputTokens,
		OutputTokens:             a.OutputTokens + b.OutputTokens,
		CacheReadInputTokens:     a.CacheReadInputTokens + b.CacheReadInputTokens,
		CacheCreationInputTokens: a.CacheCreationInputTokens + b.CacheCreationInputTokens,
	}
}

func tokens(u agent.Usage) int64 {
	return u.InputTokens + u.OutputTokens + u.CacheReadInputTokens + u.CacheCreationInputTokens
}
