package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"claude-runner/agent/nothing"
	"claude-runner/backends/local"
	"claude-runner/session/sample"
	"claude-runner/session/sqlite"
)

// overheadResult is what the runner gives with an agent that does nothing: what
// it takes is the runner's own part. loadResult is of all rounds together.
type overheadResult struct {
	loadResult
	StoredSessions int       `json:"stored_sessions"`  // beside those that are measured
	TasksPerSecond float64   `json:"tasks_per_second"` // the median of the rounds
	Rounds         []float64 `json:"rounds_tasks_per_second"`
}

func (o *overheadResult) String() string {
	return fmt.Sprintf("%s tasks per second (%s to %s in %d rounds), p50 %s ms, p99 %s ms", number(o.TasksPerSecond),
		number(slices.Min(o.Rounds)), number(slices.Max(o.Rounds)), len(o.Rounds), number(o.Answer.at(0.5)), number(o.Answer.at(0.99)))
}

// overheadSessions is how many sessions the agents that do nothing have: as many as
// keep two cores busy, and no more, for each more waits for the others.
const overheadSessions = 10

// overheadRounds is how many times the tasks per second are measured, each for the
// options' duration: a machine that others use is not as fast at all times.
const overheadRounds = 5

// overheadLane is a server that is measured with the agent that does nothing.
type overheadLane struct {
	server   *server
	sessions []string
	result   *overheadResult
}

// overhead measures hot tasks of an agent that does nothing, as plain processes: on
// a new server and, in turn with it, on one that has many sessions stored.
func (l *lab) overhead(ctx context.Context, r *report) (err error) {
	dir, err := l.installNothing()
	if err != nil {
		return err
	}
	bare, full := &overheadLane{}, &overheadLane{}
	if bare.server, err = l.serveNothing(ctx, dir, 0); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bare.server.stop(ctx)) }()
	lanes := []*overheadLane{bare}
	if l.o.Stored > 0 {
		if full.server, err = l.serveNothing(ctx, dir, l.o.Stored); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, full.server.stop(ctx)) }()
		lanes = append(lanes, full)
	}
	l.say("overhead: %d sessions of an agent that does nothing, %d × %v", overheadSessions, overheadRounds*len(lanes), l.o.Duration)
	for _, lane := range lanes {
		if err := lane.begin(ctx); err != nil {
			return err
		}
	}
	for range overheadRounds {
		for _, lane := range lanes {
			if err := lane.round(ctx); err != nil {
				return err
			}
		}
	}
	r.Overhead, r.Stored = bare.result, full.result
	return nil
}

// installNothing puts the agent that does nothing into a folder by itself, as claude.
func (l *lab) installNothing() (string, error) {
	dir := filepath.Join(l.dir, "nothing")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	program, err := nothing.Install(dir)
	if err != nil {
		return "", fmt.Errorf("install the agent that does nothing: %w", err)
	}
	// By the name that the driver calls, it is not known for what it is.
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\"\n", program)
	return dir, os.WriteFile(filepath.Join(dir, "claude"), []byte(script), 0o755)
}

// serveNothing starts a server whose agents do nothing, and that has sessions stored.
func (l *lab) serveNothing(ctx context.Context, dir string, stored int) (*server, error) {
	// Without limits that plain processes are not held to, and of which each task
	// would warn.
	limits := map[string]any{"memory": 0, "cpus": 0, "pids": 0, "tmp": 0}
	s, err := l.newServer(l.settings(local.Kind().Name, dir, map[string]agentProfile{"nothing": {"idle_timeout": "10m", "limits": limits}}))
	if err != nil {
		return nil, err
	}
	if err := s.fill(ctx, "nothing", stored); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// storedEvents is how many events a stored session has: those of a short answer.
const storedEvents = 5

// fill stores sessions of an agent, before the server starts.
func (s *server) fill(ctx context.Context, agentName string, sessions int) error {
	cfg, err := s.load()
	if err != nil {
		return err
	}
	return s.lab.program.WithStore(ctx, cfg, func(store *sqlite.Store) error {
		return sample.Fill(ctx, store, agentName, sessions, storedEvents)
	})
}

// begin begins the sessions that are measured.
func (o *overheadLane) begin(ctx context.Context) error {
	stored, err := o.server.stored(ctx)
	if err != nil {
		return err
	}
	o.result = &overheadResult{loadResult: loadResult{Conversations: overheadSessions, Answer: &quantiles{}}, StoredSessions: len(stored)}
	o.sessions, err = o.server.beginAll(ctx, "nothing", overheadSessions)
	return err
}

// round measures for the options' duration.
func (o *overheadLane) round(ctx context.Context) error {
	round, err := o.server.talk(ctx, "nothing", o.sessions)
	if err != nil {
		return err
	}
	o.result.add(round)
	o.result.Rounds = append(o.result.Rounds, round.TurnsPerSecond)
	o.result.TasksPerSecond = (&quantiles{o.result.Rounds}).at(0.5)
	return nil
}
