package agent

import "strings"

// Price is what a model costs, in US dollars per million tokens. CacheWrite is
// the price of what stays in the cache for five minutes; what stays for an hour
// costs twice Input.
type Price struct {
	Input      float64 `koanf:"input" json:"input"`
	Output     float64 `koanf:"output" json:"output"`
	CacheRead  float64 `koanf:"cache_read" json:"cacheRead"`
	CacheWrite float64 `koanf:"cache_write" json:"cacheWrite"`
}

// Cost is what the tokens cost, in US dollars. hour says how many of the
// usage's CacheCreationInputTokens stay in the cache for an hour.
func (p Price) Cost(u Usage, hour int64) float64 {
	hour = min(max(hour, 0), u.CacheCreationInputTokens)
	return (float64(u.InputTokens)*p.Input + float64(u.OutputTokens)*p.Output +
		float64(u.CacheReadInputTokens)*p.CacheRead +
		float64(u.CacheCreationInputTokens-hour)*p.CacheWrite + float64(hour)*2*p.Input) / 1e6
}

// PriceOf returns the model's price by the table, where a model's id stands for
// its dated versions too (claude-haiku-4-5 for claude-haiku-4-5-20251001). A
// model that is not in the table costs as much as the dearest one there, and
// known is false.
func PriceOf(table map[string]Price, model string) (price Price, known bool) {
	if p, ok := table[model]; ok {
		return p, true
	}
	if p, ok := table[WithoutDate(model)]; ok {
		return p, true
	}
	for _, p := range table {
		price.Input = max(price.Input, p.Input)
		price.Output = max(price.Output, p.Output)
		price.CacheRead = max(price.CacheRead, p.CacheRead)
		price.CacheWrite = max(price.CacheWrite, p.CacheWrite)
	}
	return price, false
}

// WithoutDate is a model's id without the date at its end, if it has one.
func WithoutDate(model string) string {
	const date = len("-20251001")
	if len(model) <= date {
		return model
	}
	base, end := model[:len(model)-date], model[len(model)-date:]
	if strings.HasPrefix(end, "-20") && strings.Trim(end[1:], "0123456789") == "" {
		return base
	}
	return model
}

// DefaultPrices are the standard prices of the Messages API for models that
// were to be had in November 2026, by Anthropic's published pricing and model
// pages (https://platform.claude.com/docs/en/about-claude/pricing). Where a
// model costs more for a long prompt, or a rate is not published there, this is
// the dearer figure. Discounts (batches) and surcharges (fast mode, regions,
// searches of the web) are not in it.
var DefaultPrices = map[string]Price{
	"claude-fable-5-2":  {Input: 8, Output: 40, CacheRead: 0.8, CacheWrite: 10},
	"claude-fable-5-1":  {Input: 10, Output: 50, CacheRead: 0.25, CacheWrite: 12.5},
	"claude-fable-5":    {Input: 10, Output: 50, CacheRead: 1, CacheWrite: 12.5},
	"claude-mythos-5-1": {Input: 10, Output: 50, CacheRead: 0.25, CacheWrite: 12.5},
	"claude-mythos-5":   {Input: 10, Output: 50, CacheRead: 1, CacheWrite: 12.5},

	"claude-opus-5-5": {Input: 4, Output: 20, CacheRead: 0.4, CacheWrite: 5},
	"claude-opus-5":   {Input: 5, Output: 25, CacheRead: 0.5, CacheWrite: 6.25},
	"claude-opus-4-8": {Input: 5, Output: 25, CacheRead: 0.5, CacheWrite: 6.25},
	"claude-opus-4-7": {Input: 5, Output: 25, CacheRead: 0.5, CacheWrite: 6.25},
	"claude-opus-4-6": {Input: 5, Output: 25, CacheRead: 0.5, CacheWrite: 6.25},
	"claude-opus-4-5": {Input: 5, Output: 25, CacheRead: 0.5, CacheWrite: 6.25},
	"claude-opus-4-1": {Input: 15, Output: 75, CacheRead: 1.5, CacheWrite: 18.75},

	"claude-sonnet-5-5": {Input: 2, Output: 10, CacheRead: 0.2, CacheWrite: 2.5},
	"claude-sonnet-5":   {Input: 2, Output: 10, CacheRead: 0.2, CacheWrite: 2.5},
	"claude-sonnet-4-6": {Input: 3, Output: 15, CacheRead: 0.3, CacheWrite: 3.75},
	"claude-sonnet-4-5": {Input: 3, Output: 15, CacheRead: 0.3, CacheWrite: 3.75},
	"claude-sonnet-4":   {Input: 3, Output: 15, CacheRead: 0.3, CacheWrite: 3.75},

	"claude-haiku-5-5": {Input: 0.5, Output: 2.5, CacheRead: 0.05, CacheWrite: 0.625},
	"claude-haiku-4-5": {Input: 1, Output: 5, CacheRead: 0.1, CacheWrite: 1.25},
}
