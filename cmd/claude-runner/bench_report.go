package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"claude-runner/agent/claude"
)

// benchReport is all that bench has measured, as --json writes it. A unit is in
// each name, or in that of what holds it.
type benchReport struct {
	Version     int  `json:"version"`     // of this form
	Interrupted bool `json:"interrupted"` // the rest was not measured

	Date     time.Time       `json:"date"`
	Options  benchShown      `json:"options"`
	Machine  benchMachine    `json:"machine"`
	Versions benchVersions   `json:"versions"`
	Backends []*benchBackend `json:"backends"`
	Skipped  []benchSkipped  `json:"skipped"`
	Idle     *benchIdle      `json:"idle,omitempty"`
	Overhead *benchOverhead  `json:"overhead,omitempty"`
	Targets  []benchTarget   `json:"targets"`
	Soak     *soakReport     `json:"soak,omitempty"`
}

// benchShown are the options that the figures depend on.
type benchShown struct {
	Only          []string `json:"only"`
	Samples       int      `json:"samples"`
	Burst         int      `json:"burst"`
	Conversations int      `json:"conversations"`
	DurationMS    int64    `json:"duration_ms"`
	Image         string   `json:"image"`
}

// benchMachine is where it was measured.
type benchMachine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	System      string `json:"system"` // GOOS/GOARCH
}

type benchVersions struct {
	Runner string `json:"runner"`
	Go     string `json:"go"`
	CLI    string `json:"cli"`
	Tested string `json:"cli_tested"` // that the runner is tested with
}

// benchSkipped is a backend that was left out.
type benchSkipped struct {
	Backend string `json:"backend"`
	Reason  string `json:"reason"`
}

// benchBackend is what was measured on one backend; nil is not measured. Run is
// the engine's own run of the CLI, Pipe the CLI on a pipe.
type benchBackend struct {
	Name    string `json:"name"`
	Version string `json:"version"`

	Cold       *benchTurns `json:"cold,omitempty"`
	RunTurns   *benchTurns `json:"engine_run_cold,omitempty"`
	PipeCold   *benchTurns `json:"pipe_cold,omitempty"`
	Warm       *benchTurns `json:"warm,omitempty"`
	WarmEnv    *benchTurns `json:"warm_env,omitempty"`
	PipeBooted *benchTurns `json:"pipe_booted,omitempty"`
	Hot        *benchTurns `json:"hot,omitempty"`
	PipeHot    *benchTurns `json:"pipe_hot,omitempty"`

	Run *engineRun `json:"engine_run,omitempty"`

	Burst     *benchBurst `json:"burst,omitempty"`
	BurstWarm *benchBurst `json:"burst_warm,omitempty"`
	BurstRun  *benchBurst `json:"burst_engine_run,omitempty"`
	BurstPipe *benchBurst `json:"burst_pipe,omitempty"`

	Load *benchLoad `json:"load,omitempty"`

	HotAgent  *benchAgent `json:"hot_agent,omitempty"`
	WarmAgent *benchAgent `json:"warm_agent,omitempty"`

	images bool
}

// benchTurns are the turns of one sort.
type benchTurns struct {
	Request *quantiles `json:"first_request_ms"`
	Words   *quantiles `json:"first_words_ms"`
	Answer  *quantiles `json:"answer_ms"`
	Ended   *quantiles `json:"ended_ms,omitempty"`
}

func (t *benchTurns) add(m moments) {
	if t.Request == nil {
		t.Request, t.Words, t.Answer = &quantiles{}, &quantiles{}, &quantiles{}
	}
	t.Request.add(m.request)
	t.Words.add(m.words)
	t.Answer.add(m.answer)
	if m.ended > 0 {
		if t.Ended == nil {
			t.Ended = &quantiles{}
		}
		t.Ended.add(m.ended)
	}
}

// quantiles of samples in milliseconds, which are in the order of measuring.
type quantiles struct{ samples []float64 }

func (q *quantiles) add(d time.Duration) { q.samples = append(q.samples, ms(d)) }

// at returns the least sample that a share p of all is no greater than.
func (q *quantiles) at(p float64) float64 {
	sorted := slices.Sorted(slices.Values(q.samples))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, max(0, int(math.Ceil(p*float64(len(sorted))))-1))]
}

// quantileSamples bounds the samples that are written beside the quantiles.
const quantileSamples = 1000

func (q *quantiles) MarshalJSON() ([]byte, error) {
	shown := map[string]any{"count": len(q.samples), "p50": q.at(0.5), "p95": q.at(0.95), "p99": q.at(0.99), "max": q.at(1)}
	if len(q.samples) <= quantileSamples {
		shown["samples"] = q.samples
	}
	return json.Marshal(shown)
}

// ms is a time in milliseconds, to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// newReport says where and what is measured, and finds the backends.
func (l *lab) newReport(ctx context.Context) *benchReport {
	r := &benchReport{
		Version: 1, Date: time.Now().UTC().Truncate(time.Second),
		Options: benchShown{l.o.only, l.o.samples, l.o.burst, l.o.conversations, l.o.duration.Milliseconds(), l.o.image},
		Machine: thisMachine(),
		Versions: benchVersions{
			Runner: version, Go: runtime.Version(), CLI: l.cliVersion(ctx), Tested: claude.TestedVersion,
		},
		Skipped: []benchSkipped{}, Targets: []benchTarget{},
	}
	found, skipped := l.findBackends(ctx)
	r.Backends, r.Skipped = append([]*benchBackend{}, found...), append(r.Skipped, skipped...)
	return r
}

// write writes the report where the options want it.
func (r *benchReport) write(o benchOptions, out io.Writer) error {
	if o.json != "" {
		data, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		data = append(data, '\n')
		if o.json == "-" {
			_, err := out.Write(data)
			return err
		}
		if err := os.WriteFile(o.json, data, 0o644); err != nil {
			return fmt.Errorf("--json: %w", err)
		}
	}
	if o.markdown {
		return r.markdown(out)
	}
	return r.text(out)
}

// failure is the error that a report is, if it is one.
func (r *benchReport) failure() error {
	if r.Soak != nil {
		if grown := r.Soak.grown(); len(grown) > 0 {
			return fmt.Errorf("the soak found growth:\n  %s", strings.Join(grown, "\n  "))
		}
	}
	if len(r.Backends) == 0 && r.Idle == nil && r.Overhead == nil {
		reasons := []string{"nothing could be measured"}
		for _, s := range r.Skipped {
			reasons = append(reasons, s.Backend+": "+s.Reason)
		}
		return errors.New(strings.Join(reasons, "\n  "))
	}
	return nil
}
