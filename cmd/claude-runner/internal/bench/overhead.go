package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"claude-runner/agent/nothing"
	"claude-runner/backends/local"
)

// overheadResult is what the runner gives with an agent that does nothing: what
// it takes is the runner's own part. loadResult is of all rounds together.
type overheadResult struct {
	loadResult
	TasksPerSecond float64   `json:"tasks_per_second"` // the median of the rounds
	Rounds         []float64 `json:"rounds_tasks_per_second"`
}

// overheadSessions is how many sessions the agents that do nothing have: as many as
// keep two cores busy, and no more, for each more waits for the others.
const overheadSessions = 10

// overheadRounds is how many times the tasks per second are measured, each for the
// options' duration: a machine that others use is not as fast at all times.
const overheadRounds = 5

// overhead measures hot tasks of an agent that does nothing, as plain processes.
func (l *lab) overhead(ctx context.Context) (_ *overheadResult, err error) {
	l.say("overhead: %d sessions of an agent that does nothing, %d × %v", overheadSessions, overheadRounds, l.o.Duration)
	dir := filepath.Join(l.dir, "nothing")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	program, err := nothing.Install(dir)
	if err != nil {
		return nil, fmt.Errorf("install the agent that does nothing: %w", err)
	}
	// By the name that the driver calls, it is not known for what it is.
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\"\n", program)
	if err := os.WriteFile(filepath.Join(dir, "claude"), []byte(script), 0o755); err != nil {
		return nil, err
	}
	// Without limits that plain processes are not held to, and of which each task
	// would warn.
	limits := map[string]any{"memory": 0, "cpus": 0, "pids": 0, "tmp": 0}
	s, err := l.serve(ctx, local.Kind().Name, dir, map[string]agentProfile{"nothing": {"idle_timeout": "10m", "limits": limits}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	sessions, err := s.beginAll(ctx, "nothing", overheadSessions)
	if err != nil {
		return nil, err
	}
	r := &overheadResult{loadResult: loadResult{Conversations: overheadSessions, Answer: &quantiles{}}}
	for range overheadRounds {
		round, err := s.talk(ctx, "nothing", sessions)
		if err != nil {
			return nil, err
		}
		r.add(round)
		r.Rounds = append(r.Rounds, round.TurnsPerSecond)
	}
	r.TasksPerSecond = (&quantiles{r.Rounds}).at(0.5)
	return r, nil
}
