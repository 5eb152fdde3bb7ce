package bench

import (
	"context"
	"errors"
	"time"

	"github.com/dustin/go-humanize/english"
)

// agentResult is what an agent holds and takes that waits for a message, with all
// processes of its sandbox.
type agentResult struct {
	Agents         int     `json:"agents"`            // that the figures are the mean of
	MemoryBytes    int64   `json:"memory_bytes"`      // what several share counts once
	CPUPerSecondMS float64 `json:"cpu_per_second_ms"` // processor time
	Processes      float64 `json:"processes"`
}

// idleResult is a server that has nothing to do, with all backends.
type idleResult struct {
	ServerResidentBytes  int64   `json:"server_resident_bytes"`
	ServerBytes          int64   `json:"server_memory_bytes"` // what it shares counts in part
	ServerPerSecondMS    float64 `json:"server_cpu_per_second_ms"`
	GatewayResidentBytes int64   `json:"gateway_resident_bytes"`
	GatewayBytes         int64   `json:"gateway_memory_bytes"`
	GatewayPerSecondMS   float64 `json:"gateway_cpu_per_second_ms"`
}

const (
	restBefore = 2 * time.Second  // until an idle time is looked at
	restFor    = 10 * time.Second // how long it is
	memoryOf   = 4                // agents, at most, whose memory is measured
)

// agentMemory measures hot and warm agents that wait.
func (l *lab) agentMemory(ctx context.Context, b *backendResult) error {
	n := min(l.o.Conversations, memoryOf)
	l.say("%s: memory of %s", b.Name, english.Plural(n, "agent", ""))
	var err error
	b.HotAgent, err = l.waiting(ctx, b.Name, agentProfile{"idle_timeout": "10m"}, n, func(s *server) error {
		_, err := s.beginAll(ctx, "agent", n)
		return err
	})
	if err != nil || !l.o.wants("warm") {
		return err
	}
	b.WarmAgent, err = l.waiting(ctx, b.Name, agentProfile{"keep_warm": n}, n, func(s *server) error {
		return s.awaitWarm(ctx, "agent", n)
	})
	return err
}

// waiting starts a server of one profile, has n agents begin, and looks at them
// while they wait.
func (l *lab) waiting(ctx context.Context, backend string, profile agentProfile, n int, begin func(*server) error) (_ *agentResult, err error) {
	s, err := l.serve(ctx, backend, l.cliDir(), map[string]agentProfile{"agent": profile})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	if err := begin(s); err != nil {
		return nil, err
	}
	before, after, err := s.rest(ctx)
	if err != nil {
		return nil, err
	}
	return &agentResult{
		Agents: n, MemoryBytes: after.agents.memory / int64(n),
		CPUPerSecondMS: ms(after.agents.cpu-before.agents.cpu) / restFor.Seconds() / float64(n),
		Processes:      float64(after.count) / float64(n),
	}, nil
}

// rest looks at the server's processes at the begin and the end of a time in
// which nothing happens.
func (s *server) rest(ctx context.Context) (before, after serverProcesses, err error) {
	if err := pause(ctx, restBefore); err != nil {
		return before, after, err
	}
	before = s.processes()
	err = pause(ctx, restFor)
	return before, s.processes(), err
}

// idleServer measures a server as it is without a configuration.
func (l *lab) idleServer(ctx context.Context) (_ *idleResult, err error) {
	l.say("idle server")
	s, err := l.start(ctx, map[string]any{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	before, after, err := s.rest(ctx)
	if err != nil {
		return nil, err
	}
	return &idleResult{
		ServerResidentBytes: residentBytes(s.cmd.Process.Pid), GatewayResidentBytes: residentBytes(after.gatewayPID),
		ServerBytes: after.server.memory, GatewayBytes: after.gateway.memory,
		ServerPerSecondMS:  ms(after.server.cpu-before.server.cpu) / restFor.Seconds(),
		GatewayPerSecondMS: ms(after.gateway.cpu-before.gateway.cpu) / restFor.Seconds(),
	}, nil
}
