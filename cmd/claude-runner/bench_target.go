package main

import "fmt"

// benchTarget is a figure that the runner is held to, as it came out here.
type benchTarget struct {
	Target string  `json:"target"`
	Unit   string  `json:"unit"`
	Wanted float64 `json:"wanted"`
	Got    float64 `json:"got"`
	Held   bool    `json:"held"`
}

func (t benchTarget) String() string {
	word := "missed"
	if t.Held {
		word = "held"
	}
	return fmt.Sprintf("%s: %s (%s, got %s %s)", t.Target, word, number(t.Wanted), number(t.Got), t.Unit)
}

// What the runner is held to.
const (
	coldOverPipeMS   = 150.0
	burstToRun       = 0.7
	nothingPerSecond = 1500.0 // on two processors
	nothingP99MS     = 20.0
	idleServerBytes  = 40 << 20
)

// judge holds the figures that there are against the targets.
func (r *benchReport) judge() {
	atMost := func(target, unit string, wanted, got float64) {
		r.Targets = append(r.Targets, benchTarget{target, unit, wanted, got, got <= wanted})
	}
	for _, b := range r.Backends {
		if b.Cold != nil && b.PipeCold != nil {
			atMost(b.Name+": a cold start's first model request, after that of the CLI on a pipe, at most", "ms",
				coldOverPipeMS, b.Cold.Request.at(0.5)-b.PipeCold.Request.at(0.5))
		}
		if b.Burst != nil && b.BurstRun != nil {
			atMost(fmt.Sprintf("%s: a burst of %d new sessions, to as many `%s`, at most", b.Name, b.Burst.Sessions, b.Run.Command), "×",
				burstToRun, b.Burst.TotalMS/b.BurstRun.TotalMS)
		}
	}
	if o := r.Overhead; o != nil && r.Machine.Cores >= 2 {
		r.Targets = append(r.Targets, benchTarget{
			"tasks of an agent that does nothing, at least", "per second", nothingPerSecond, o.TasksPerSecond, o.TasksPerSecond >= nothingPerSecond,
		})
		atMost("p99 of such a task, at most", "ms", nothingP99MS, o.Answer.at(0.99))
	}
	if r.Idle != nil && r.Idle.ServerResidentBytes > 0 {
		atMost("resident memory of an idle server, at most", "bytes", idleServerBytes, float64(r.Idle.ServerResidentBytes))
	}
}
