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
// it takes is the runner's own part.
type overheadResult struct {
	loadResult
	TasksPerSecond float64 `json:"tasks_per_second"`
}

// overheadSessions is how many sessions the agents that do nothing have: as many as
// keep two cores busy, and no more, for each more waits for the others.
const overheadSessions = 10

// overhead measures hot tasks of an agent that does nothing, as plain processes.
func (l *lab) overhead(ctx context.Context) (_ *overheadResult, err error) {
	l.say("overhead: %d sessions of an agent that does nothing, for %v", overheadSessions, l.o.Duration)
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
	load, err := s.converse(ctx, "nothing", overheadSessions)
	if err != nil {
		return nil, err
	}
	return &overheadResult{loadResult: *load, TasksPerSecond: load.TurnsPerSecond}, nil
}
