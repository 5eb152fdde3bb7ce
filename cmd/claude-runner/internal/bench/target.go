package bench

import (
	"fmt"

	"github.com/dustin/go-humanize/english"
)

// target is a figure that the runner is held to, as it came out here.
type target struct {
	Target string  `json:"target"`
	Unit   string  `json:"unit"`
	Bound  string  `json:"bound"` // "at most" or "at least"
	Wanted float64 `json:"wanted"`
	Got    float64 `json:"got"`
	Held   bool    `json:"held"`
}

func (t target) String() string {
	word, show := "missed", func(v float64) string { return number(v) + " " + t.Unit }
	if t.Held {
		word = "held"
	}
	if t.Unit == "bytes" {
		show = func(v float64) string { return bytesOf(int64(v)) }
	}
	return fmt.Sprintf("%s, %s %s: %s, with %s", t.Target, t.Bound, show(t.Wanted), word, show(t.Got))
}

// What the runner is held to.
const (
	coldOverPipeMS   = 150.0
	warmMS           = 120.0
	hotToPipe        = 1.5
	runToHot         = 30.0
	burstToRun       = 0.7
	medianToRun      = 0.5
	warmMedianMS     = 500.0
	burstSessions    = 20     // at least, of a burst that it holds for
	nothingPerSecond = 1500.0 // on two processors
	nothingP99MS     = 20.0
	storedToNone     = 1.1    // no more than two measurements of one thing differ by
	storedSessions   = 10_000 // at least, that it holds for
	idleServerBytes  = 40 << 20
)

// judge holds the figures that there are against the targets.
func (r *report) judge() {
	hold := func(what, bound string, wanted, got float64, unit string) {
		held := got <= wanted
		if bound == "at least" {
			held = got >= wanted
		}
		r.Targets = append(r.Targets, target{what, unit, bound, wanted, got, held})
	}
	for _, b := range r.Backends {
		if b.Hot != nil && b.PipeHot != nil {
			hold(b.Name+": a hot turn's first model request to that of the CLI on a pipe", "at most",
				hotToPipe, b.Hot.Request.at(0.5)/b.PipeHot.Request.at(0.5), "×")
		}
		if b.Hot != nil && b.RunTurns != nil {
			hold(b.Name+": that of `"+b.Run.Command+"` to a hot turn's", "at least",
				runToHot, b.RunTurns.Request.at(0.5)/b.Hot.Request.at(0.5), "×")
		}
		if b.Warm != nil {
			hold(b.Name+": a warm agent's first model request", "at most", warmMS, b.Warm.Request.at(0.5), "ms")
		}
		if b.WarmEnv != nil {
			hold(b.Name+": the same, with an environment of the task", "at most", warmMS, b.WarmEnv.Request.at(0.5), "ms")
		}
		if b.Cold != nil && b.PipeCold != nil {
			hold(b.Name+": a new session's first model request after that of the CLI on a pipe", "at most",
				coldOverPipeMS, b.Cold.Request.at(0.5)-b.PipeCold.Request.at(0.5), "ms")
		}
		if b.Burst != nil && b.Burst.Sessions >= burstSessions && b.BurstRun != nil && b.BurstRun.TotalMS > 0 {
			hold(b.Name+": a burst of "+english.Plural(b.Burst.Sessions, "new session", "")+" to as many `"+b.Run.Command+"`", "at most",
				burstToRun, b.Burst.TotalMS/b.BurstRun.TotalMS, "×")
			hold(b.Name+": the median session of it", "at most", medianToRun, b.Burst.MedianMS/b.BurstRun.MedianMS, "×")
		}
		if b.BurstWarm != nil && b.BurstWarm.Sessions >= burstSessions && b.BurstWarm.MedianMS > 0 {
			hold(b.Name+": the median session of a burst with an agent ready for each", "at most", warmMedianMS, b.BurstWarm.MedianMS, "ms")
		}
	}
	if o := r.Overhead; o != nil && r.Machine.Cores >= 2 {
		hold("tasks of an agent that does nothing", "at least", nothingPerSecond, o.TasksPerSecond, "per second")
		hold("p99 of such a task", "at most", nothingP99MS, o.Answer.at(0.99), "ms")
	}
	if o := r.Stored; o != nil && o.StoredSessions >= storedSessions {
		hold("p50 of such a task with "+english.Plural(o.StoredSessions, "stored session", "")+" to that without", "at most",
			storedToNone, o.Answer.at(0.5)/r.Overhead.Answer.at(0.5), "×")
	}
	if r.Idle != nil && r.Idle.ServerResidentBytes > 0 {
		hold("resident memory of an idle server", "at most", idleServerBytes, float64(r.Idle.ServerResidentBytes), "bytes")
	}
}
