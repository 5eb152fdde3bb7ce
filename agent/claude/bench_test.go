package claude_test

import (
	"testing"
	"time"

	"claude-runner/agent"
	"claude-runner/agent/scripted"
)

// BenchmarkFirstRequest tells how long a model waits for a message: from a
// process that is to be started, and from one that has taken a turn.
func BenchmarkFirstRequest(b *testing.B) {
	asked := make(chan time.Time, 1)
	script, err := scripted.Builtin("hello")
	if err != nil {
		b.Fatal(err)
	}
	server := scripted.New(script, scripted.Options{OnRequest: func(r scripted.Request) { asked <- r.At }})
	url, err := server.Listen("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	turn := func(b *testing.B, p *process, since time.Time) time.Duration {
		if _, err := p.Turn(b.Context(), agent.Turn{Message: "hello"}, func(agent.Event) {}); err != nil {
			b.Fatal(err)
		}
		return (<-asked).Sub(since)
	}
	b.Run("cold", func(b *testing.B) {
		var sum time.Duration
		for b.Loop() {
			l := newLaunch(b, url)
			since := time.Now()
			p := start(b, l)
			sum += turn(b, p, since)
			p.end()
		}
		b.ReportMetric(float64(sum.Milliseconds())/float64(b.N), "ms/request")
	})
	b.Run("hot", func(b *testing.B) {
		var sum time.Duration
		p := start(b, newLaunch(b, url))
		turn(b, p, time.Now())
		for b.Loop() {
			sum += turn(b, p, time.Now())
		}
		b.ReportMetric(float64(sum.Milliseconds())/float64(b.N), "ms/request")
	})
}
