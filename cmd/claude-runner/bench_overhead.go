package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"claude-runner/backends/local"
)

// benchOverhead is what the runner gives with an agent that does nothing: what
// it takes is the runner's own part.
type benchOverhead struct {
	benchLoad
	TasksPerSecond float64 `json:"tasks_per_second"`
}

// overheadSessions is how many sessions the agents that do nothing have.
const overheadSessions = 32

// overhead measures hot tasks of an agent that does nothing, as plain processes.
func (l *lab) overhead(ctx context.Context) (_ *benchOverhead, err error) {
	l.say("overhead: %d sessions of an agent that does nothing, for %v", overheadSessions, l.o.duration)
	dir := filepath.Join(l.dir, "nothing")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := installNothing(dir); err != nil {
		return nil, fmt.Errorf("install the agent that does nothing: %w", err)
	}
	s, err := l.serve(ctx, local.Kind().Name, dir, map[string]benchProfile{"nothing": {"idle_timeout": "10m"}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	load, err := s.converse(ctx, "nothing", overheadSessions)
	if err != nil {
		return nil, err
	}
	return &benchOverhead{benchLoad: *load, TasksPerSecond: load.TurnsPerSecond}, nil
}

// installNothing puts a program into a folder that is called as the CLI is,
// answers each message at once, and does nothing else.
func installNothing(dir string) error {
	return os.WriteFile(filepath.Join(dir, "claude"), []byte(nothingScript), 0o755)
}

const nothingScript = `#!/bin/sh
id=00000000-0000-4000-8000-000000000000
while [ $# -gt 1 ]; do
	if [ "$1" = --session-id ]; then id=$2; fi
	shift
done
while IFS= read -r line; do
	case $line in
	*'"type":"control_request"'*)
		request=${line#*'"request_id":"'}
		request=${request%%'"'*}
		printf '{"type":"control_response","response":{"subtype":"success","request_id":"%s","response":{}}}\n' "$request" ;;
	*'"type":"user"'*)
		printf '%s\n' \
			'{"type":"system","subtype":"init","session_id":"'$id'","model":"nothing","tools":[]}' \
			'{"type":"assistant","session_id":"'$id'","message":{"role":"assistant","model":"nothing","content":[{"type":"text","text":"done"}]}}' \
			'{"type":"result","subtype":"success","is_error":false,"result":"done","session_id":"'$id'","num_turns":0,"total_cost_usd":0,"usage":{},"modelUsage":{}}' ;;
	esac
done
`
