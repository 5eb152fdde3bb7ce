package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize/english"
)

// lane is one sort of turn that is sampled.
type lane struct {
	name      string
	sample    func(context.Context) (moments, error)
	into      **turnsResult
	reference bool // one that fails is left out
}

// settle is a pause before each sample: what the one before has left to be done (its
// CLI's exit and garbage, an engine's clean-up) is not to be in its way.
const settle = 500 * time.Millisecond

// hotPerRound is how many hot turns there are to one of each other sort. They are
// short, so that what disturbs the machine for a moment is all of one; and they cost
// no boot.
const hotPerRound = 4

// turns samples turns of all sorts, in rounds that have each sort: what disturbs the
// machine disturbs all sorts alike.
func (l *lab) turns(ctx context.Context, b *backendResult) (err error) {
	agents := map[string]agentProfile{"cold": {"idle_timeout": "0s"}, "hot": {"idle_timeout": "10m"}}
	if l.o.wants("warm") {
		agents["warm"] = agentProfile{"idle_timeout": "0s", "keep_warm": 1}
	}
	s, err := l.serve(ctx, b.Name, l.cliDir(), agents)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	if err := s.firstTurn(ctx, "cold"); err != nil {
		return err
	}
	lanes, done, err := l.lanes(ctx, s, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	l.say("%s: %s of %s", b.Name, english.Plural(l.o.Samples, "round", ""), english.Plural(len(lanes), "turn", ""))
	for range l.o.Samples {
		for _, lane := range lanes {
			if err := pause(ctx, settle); err != nil {
				return err
			}
			m, err := lane.sample(ctx)
			if err != nil && lane.reference && ctx.Err() == nil {
				l.say("%s: one turn is left out: %s: %v", b.Name, lane.name, err)
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w", lane.name, err)
			}
			if *lane.into == nil {
				*lane.into = &turnsResult{}
			}
			(*lane.into).add(m)
		}
	}
	return nil
}

// lanes are the turns of a round: the sorts that are wanted, and their references.
func (l *lab) lanes(ctx context.Context, s *server, b *backendResult) (lanes []lane, done func() error, err error) {
	done = func() error { return nil }
	if l.o.wants("cold") {
		lanes = append(lanes, lane{"cold", func(ctx context.Context) (moments, error) { return s.newTurn(ctx, "cold", nil) }, &b.Cold, false})
		if run := l.engineRun(ctx, b.Name); run != nil {
			b.Run = run
			lanes = append(lanes, lane{run.Command, run.once, &b.RunTurns, true})
		}
		if l.cli != "" {
			lanes = append(lanes, lane{"CLI on a pipe", l.pipedCold, &b.PipeCold, true})
		}
	}
	if l.o.wants("warm") {
		if err := s.awaitWarm(ctx, "warm", 1); err != nil {
			return nil, done, err
		}
		warm := func(env map[string]string) func(context.Context) (moments, error) {
			return func(ctx context.Context) (moments, error) {
				m, err := s.newTurn(ctx, "warm", env)
				if err != nil {
					return m, err
				}
				// What boots in its place must not be in the next sample's way.
				return m, s.awaitWarm(ctx, "warm", 1)
			}
		}
		lanes = append(lanes, lane{"warm", warm(nil), &b.Warm, false},
			lane{"warm, with an environment", warm(map[string]string{"BENCH": "1"}), &b.WarmEnv, false})
		if l.cli != "" {
			lanes = append(lanes, lane{"CLI on a pipe, booted", l.pipedBooted, &b.PipeBooted, true})
		}
	}
	if l.o.wants("hot") {
		session := s.session()
		hot := func(ctx context.Context) (moments, error) { return s.turn(ctx, "hot", session, nil) }
		if _, err := hot(ctx); err != nil {
			return nil, done, fmt.Errorf("hot: %w", err)
		}
		later := []lane{{"hot", hot, &b.Hot, false}}
		if l.cli != "" {
			piped, closePipe, err := l.pipedHot(ctx, b)
			if err != nil {
				return nil, done, err
			}
			later, done = append(later, piped), closePipe
		}
		lanes = append(lanes, slices.Repeat(later, hotPerRound)...)
	}
	return lanes, done, nil
}

// pipedHot is the later turns of one CLI.
func (l *lab) pipedHot(ctx context.Context, b *backendResult) (lane, func() error, error) {
	p, err := l.pipe(ctx)
	if err != nil {
		return lane{}, nil, err
	}
	again := func(ctx context.Context) (moments, error) { return p.turn(ctx, time.Now()) }
	if _, err := again(ctx); err != nil {
		return lane{}, nil, errors.Join(err, p.close(ctx))
	}
	return lane{"CLI on a pipe, hot", again, &b.PipeHot, false}, func() error { return p.close(ctx) }, nil
}
