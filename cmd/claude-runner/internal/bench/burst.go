package bench

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dustin/go-humanize/english"
	"golang.org/x/sync/errgroup"
)

// burstResult is a number of sessions that begin at once. Where it was measured
// in rounds, each figure is the median round's.
type burstResult struct {
	Sessions int       `json:"sessions"`
	TotalMS  float64   `json:"total_ms"`       // until the last answer
	MedianMS float64   `json:"median_ms"`      // until the median session's answer
	Rounds   []float64 `json:"rounds_ms"`      // each round's total
	Note     string    `json:"note,omitempty"` // why there are no figures

	medians []float64
}

// burstRounds is how often each sort of burst is measured, where there are
// enough samples for it.
const burstRounds = 5

// burstSort is one sort of burst; run returns when each session was answered.
type burstSort struct {
	into **burstResult
	run  func(context.Context) (*quantiles, error)
}

// bursts measures bursts of all sorts, one of each in each round.
func (l *lab) bursts(ctx context.Context, b *backendResult) error {
	sorts := l.burstSorts(ctx, b)
	rounds := min(burstRounds, max(1, l.o.Samples/3))
	l.say("%s: %d bursts of %s", b.Name, rounds*len(sorts), english.Plural(l.o.Burst, "session", ""))
	for range rounds {
		for _, sort := range sorts {
			if *sort.into == nil {
				*sort.into = &burstResult{Sessions: l.o.Burst}
			}
			answers, err := sort.run(ctx)
			if err != nil && sort.into != &b.Burst && ctx.Err() == nil { // this host may not bear so many
				(*sort.into).Note = err.Error()
				l.say("%s: a burst is left out: %v", b.Name, err)
				continue
			}
			if err != nil {
				return err
			}
			(*sort.into).add(answers)
		}
	}
	return nil
}

// burstSorts are the bursts of the runner, and what they are compared with.
func (l *lab) burstSorts(ctx context.Context, b *backendResult) []burstSort {
	sorts := []burstSort{{&b.Burst, func(ctx context.Context) (*quantiles, error) { return l.burstCold(ctx, b.Name) }}}
	if b.Run == nil {
		b.Run = l.engineRun(ctx, b.Name)
	}
	switch {
	case b.Run != nil:
		sorts = append(sorts, burstSort{&b.BurstRun, func(ctx context.Context) (*quantiles, error) { return l.atOnce(ctx, b.Run.once) }})
	case l.cli != "":
		sorts = append(sorts, burstSort{&b.BurstPipe, func(ctx context.Context) (*quantiles, error) { return l.atOnce(ctx, l.pipedCold) }})
	}
	if l.o.wants("warm") {
		sorts = append(sorts, burstSort{&b.BurstWarm, func(ctx context.Context) (*quantiles, error) { return l.burstWarm(ctx, b.Name) }})
	}
	return sorts
}

func (b *burstResult) add(answers *quantiles) {
	b.Rounds = append(b.Rounds, answers.at(1))
	b.medians = append(b.medians, answers.at(0.5))
	b.TotalMS, b.MedianMS = middle(b.Rounds), middle(b.medians)
}

// middle is the median of values.
func middle(values []float64) float64 { return (&quantiles{slices.Clone(values)}).at(0.5) }

// burstCold is a burst at a server that has nothing ready. One turn is before it, as
// there is one before those that it is compared with.
func (l *lab) burstCold(ctx context.Context, backend string) (_ *quantiles, err error) {
	s, err := l.serve(ctx, backend, l.cliDir(), map[string]agentProfile{"cold": {"idle_timeout": "0s"}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	if err := s.firstTurn(ctx, "cold"); err != nil {
		return nil, err
	}
	return l.atOnce(ctx, func(ctx context.Context) (moments, error) { return s.turn(ctx, "cold", s.session(), nil) })
}

// burstWarm is a burst at a server that has an agent booted for each session.
func (l *lab) burstWarm(ctx context.Context, backend string) (_ *quantiles, err error) {
	s, err := l.serve(ctx, backend, l.cliDir(), map[string]agentProfile{"warm": {"idle_timeout": "10m", "keep_warm": l.o.Burst}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	if err := s.awaitWarm(ctx, "warm", l.o.Burst); err != nil {
		return nil, err
	}
	return l.atOnce(ctx, func(ctx context.Context) (moments, error) { return s.turn(ctx, "warm", s.session(), nil) })
}

// atOnce runs a burst's turns side by side. An answer's time counts from the
// burst's beginning.
func (l *lab) atOnce(ctx context.Context, turn func(context.Context) (moments, error)) (*quantiles, error) {
	g, ctx := errgroup.WithContext(ctx)
	answers := make([]time.Duration, l.o.Burst)
	begun := time.Now()
	for i := range answers {
		g.Go(func() error {
			late := time.Since(begun)
			m, err := turn(ctx)
			answers[i] = late + m.answer
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	q := &quantiles{}
	for _, a := range answers {
		q.add(a)
	}
	return q, nil
}
