package gateway_test

import (
	"context"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"claude-runner/agent"
	"claude-runner/agent/gateway"
	"claude-runner/agent/scripted"
)

// mixed answers by the message's first word. The first of two Messages APIs is
// busy for some.
const mixed = `
rules:
  - match: {message: over}
    answer: [{text: over here}]
    usage: {input_tokens: 310, output_tokens: 31}
  - match: {message: cut}
    answer: [{text: "a long answer that is cut in its middle"}]
    usage: {input_tokens: 1700, output_tokens: 90, cache_read_input_tokens: 1200}
    fault: {kind: cut, at: 1}
  - match: {message: end}
    answer: [{text: "a long answer that ends early"}]
    usage: {input_tokens: 13, output_tokens: 9, cache_creation_input_tokens: 77}
    fault: {kind: end, at: 1}
  - match: {message: lost}
    fault: {kind: cut, at: headers}
  - match: {message: event}
    answer: [{text: "a long answer with an error in it"}]
    usage: {input_tokens: 21, output_tokens: 9}
    error: {status: 529, at: 1}
  - {match: {message: retry}, times: 1, error: {status: 500}}
  - {match: {message: busy}, error: {status: 529, retry_after: "0"}}
  - match: {message: leave}
    chunk_delay: 1h
    answer: [{text: ab, chunk: 1}]
    usage: {input_tokens: 41, output_tokens: 5}
  - match: {message: think}
    answer: [{thinking: "let me see"}, {tool_use: Bash, input: {command: "true"}}]
    usage: {input_tokens: 2500, output_tokens: 640, cache_read_input_tokens: 30000, cache_creation_input_tokens: 450}
  - answer: [{text: "Hello. You said {{.Message}}", chunk: 3}]
`

// What the meter has counted is what the scripted model says that it has
// served: tokens, dollars and calls.
func TestMeterIsWhatTheModelServed(t *testing.T) {
	const refused = "\nrules:\n  - {match: {message: over}, error: {status: 429, retry_after: \"0\"}}"
	busy, url1 := upstream(t, strings.Replace(mixed, "\nrules:", refused, 1), scripted.Options{})
	ready, url2 := upstream(t, mixed, scripted.Options{})
	l := lease(t, url1, url2)
	l.Budgets = []gateway.Budget{{Name: "all", LimitUSD: 1e6}}
	g, client := open(t, l, gateway.Options{})

	kinds := []string{"hello", "hello", "think", "over", "cut", "end", "lost", "event", "retry", "busy", "leave"}
	const calls, workers = 1000, 8
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(worker)))
			for i := worker; i < calls; i += workers {
				kind := kinds[random.IntN(len(kinds))]
				ask(t, client, kind, kind+" "+strconv.Itoa(i), kind == "leave" || random.IntN(2) == 0)
			}
		})
	}
	wg.Wait()
	// Who leaves does not see that it is counted.
	sum := func() scripted.Totals { return plus(busy.Served(), ready.Served()) }
	all := func(s scripted.Totals) int64 { return int64(s.Calls + s.Errors + s.Broken) }
	waitFor(t, "all calls to end", func() bool { return all(sum()) == totals(t, g).Calls })

	got, s := totals(t, g), sum()
	want := agent.Usage{
		InputTokens: s.InputTokens + s.CutInputTokens, OutputTokens: s.OutputTokens + s.CutOutputTokens,
		CacheReadInputTokens:     s.CacheReadTokens + s.CutCacheReadTokens,
		CacheCreationInputTokens: s.CacheCreationTokens + s.CutCacheCreationTokens,
	}
	if got.Usage != want {
		t.Errorf("tokens %+v, the model says %+v", got.Usage, want)
	}
	if usd := s.USD + s.CutUSD; math.Abs(got.CostUSD-usd) > 1e-9 {
		t.Errorf("$%.9f, the model says $%.9f", got.CostUSD, usd)
	}
	if whole := got.Calls - got.Failed - got.Cut; whole != int64(s.Calls) || got.Calls < calls {
		t.Errorf("%d whole of %d, the model says %+v", whole, got.Calls, s)
	}
	if s.Broken == 0 || s.Errors == 0 || s.CutInputTokens == 0 || ready.Served().Calls == 0 {
		t.Errorf("not mixed: %+v", s)
	}
	t.Logf("%d calls, of them %d failed and %d cut: $%.6f", got.Calls, got.Failed, got.Cut, got.CostUSD)
}

func plus(a, b scripted.Totals) scripted.Totals {
	a.Calls, a.Errors, a.Broken = a.Calls+b.Calls, a.Errors+b.Errors, a.Broken+b.Broken
	a.InputTokens, a.OutputTokens = a.InputTokens+b.InputTokens, a.OutputTokens+b.OutputTokens
	a.CacheReadTokens, a.CacheCreationTokens = a.CacheReadTokens+b.CacheReadTokens, a.CacheCreationTokens+b.CacheCreationTokens
	a.USD, a.CutUSD = a.USD+b.USD, a.CutUSD+b.CutUSD
	a.CutInputTokens, a.CutOutputTokens = a.CutInputTokens+b.CutInputTokens, a.CutOutputTokens+b.CutOutputTokens
	a.CutCacheReadTokens, a.CutCacheCreationTokens = a.CutCacheReadTokens+b.CutCacheReadTokens, a.CutCacheCreationTokens+b.CutCacheCreationTokens
	return a
}

// ask does what a client does with such a call: it reads all, leaves after the
// first delta, or asks again after an error.
func ask(t *testing.T, client *http.Client, kind, message string, stream bool) {
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for range 2 {
		response, err := client.Do(request(ctx, body(stream, message)))
		if err != nil {
			t.Errorf("%s: %v", message, err)
			return
		}
		if kind == "leave" {
			var read strings.Builder
			for one := make([]byte, 1); !strings.HasSuffix(read.String(), `"text":"a"`); read.Write(one) {
				if _, err := io.ReadFull(response.Body, one); err != nil {
					t.Errorf("%s: %v", message, err)
					break
				}
			}
			leave()
			response.Body.Close()
			return
		}
		_, _ = io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusInternalServerError {
			return
		}
	}
}
