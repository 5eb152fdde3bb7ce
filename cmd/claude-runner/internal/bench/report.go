package bench

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

// report is all that bench has measured, as --json writes it. A unit is in
// each name, or in that of what holds it.
type report struct {
	Version     int  `json:"version"`     // of this form
	Interrupted bool `json:"interrupted"` // the rest was not measured

	Date     time.Time        `json:"date"`
	Options  shownOptions     `json:"options"`
	Machine  machine          `json:"machine"`
	Versions versions         `json:"versions"`
	Backends []*backendResult `json:"backends"`
	Skipped  []skippedBackend `json:"skipped"`
	Idle     *idleResult      `json:"idle,omitempty"`
	Overhead *overheadResult  `json:"overhead,omitempty"`
	Stored   *overheadResult  `json:"overhead_stored,omitempty"` // the same where sessions are stored
	Targets  []target         `json:"targets"`
	Soak     *soakReport      `json:"soak,omitempty"`
}

// shownOptions are the options that the figures depend on.
type shownOptions struct {
	Only          []string `json:"only"`
	Samples       int      `json:"samples"`
	Burst         int      `json:"burst"`
	Conversations int      `json:"conversations"`
	DurationMS    int64    `json:"duration_ms"`
	Stored        int      `json:"stored_sessions"`
	Image         string   `json:"image"`
}

// machine is where it was measured.
type machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	System      string `json:"system"` // GOOS/GOARCH
}

type versions struct {
	Runner string `json:"runner"`
	Go     string `json:"go"`
	CLI    string `json:"cli"`
	Tested string `json:"cli_tested"` // that the runner is tested with
}

// skippedBackend is a backend that was left out.
type skippedBackend struct {
	Backend string `json:"backend"`
	Reason  string `json:"reason"`
}

// backendResult is what was measured on one backend; nil is not measured. Run is
// the engine's own run of the CLI, Pipe the CLI on a pipe.
type backendResult struct {
	Name    string `json:"name"`
	Version string `json:"version"`

	Cold       *turnsResult `json:"cold,omitempty"`
	RunTurns   *turnsResult `json:"engine_run_cold,omitempty"`
	PipeCold   *turnsResult `json:"pipe_cold,omitempty"`
	Warm       *turnsResult `json:"warm,omitempty"`
	WarmEnv    *turnsResult `json:"warm_env,omitempty"`
	PipeBooted *turnsResult `json:"pipe_booted,omitempty"`
	Hot        *turnsResult `json:"hot,omitempty"`
	PipeHot    *turnsResult `json:"pipe_hot,omitempty"`

	Run *engineRun `json:"engine_run,omitempty"`

	Burst     *burstResult `json:"burst,omitempty"`
	BurstWarm *burstResult `json:"burst_warm,omitempty"`
	BurstRun  *burstResult `json:"burst_engine_run,omitempty"`
	BurstPipe *burstResult `json:"burst_pipe,omitempty"`

	Load *loadResult `json:"load,omitempty"`

	HotAgent  *agentResult `json:"hot_agent,omitempty"`
	WarmAgent *agentResult `json:"warm_agent,omitempty"`

	images bool
}

// turnsResult are the turns of one sort.
type turnsResult struct {
	Request *quantiles `json:"first_request_ms"`
	Words   *quantiles `json:"first_words_ms"`
	Answer  *quantiles `json:"answer_ms"`
	Ended   *quantiles `json:"ended_ms,omitempty"`
}

func (t *turnsResult) add(m moments) {
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
func (l *lab) newReport(ctx context.Context) *report {
	r := &report{
		Version: 1, Date: time.Now().UTC().Truncate(time.Second),
		Options: shownOptions{l.o.Only, l.o.Samples, l.o.Burst, l.o.Conversations, l.o.Duration.Milliseconds(), l.o.Stored, l.o.Image},
		Machine: thisMachine(),
		Versions: versions{
			Runner: l.program.Version, Go: runtime.Version(), CLI: l.cliVersion(ctx), Tested: claude.TestedVersion,
		},
		Skipped: []skippedBackend{}, Targets: []target{},
	}
	found, skipped := l.findBackends(ctx)
	r.Backends, r.Skipped = append([]*backendResult{}, found...), append(r.Skipped, skipped...)
	return r
}

// write writes the report where the options want it.
func (r *report) write(o Options, out io.Writer) error {
	if o.JSON != "" {
		data, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		data = append(data, '\n')
		if o.JSON == "-" {
			_, err := out.Write(data)
			return err
		}
		if err := os.WriteFile(o.JSON, data, 0o644); err != nil {
			return fmt.Errorf("--json: %w", err)
		}
	}
	if o.Markdown {
		return r.markdown(out)
	}
	return r.text(out)
}

// failure is the error that a report is, if it is one.
func (r *report) failure() error {
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
