package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/docker/docker/api/types/container"

	"claude-runner/backends"
	"claude-runner/backends/internal/proc"
)

// Usage reads the container's own cgroup, which the first call finds with a
// request to the engine. Where that can not be read from here, memory is the
// sum of the proportional set sizes of the container's processes. Where the
// runner may not read these either, every call asks the engine for its
// statistics, if it has cgroups. The peak of memory is the kernel's where that
// tells it, page cache included, and else the highest use that a call has found.
func (s *sandbox) Usage(ctx context.Context) (backends.Usage, error) {
	select {
	case <-s.done:
	default:
		err := s.used.Measure(s.handle.ID,
			func() (int, error) { return s.firstProcess(ctx) },
			func() (proc.Usage, error) { return s.statistics(ctx) })
		if err != nil {
			return backends.Usage{}, fmt.Errorf("usage of sandbox %s: %w", s.handle.Name, err)
		}
	}
	return backends.Usage(s.used.Last()), nil
}

// firstProcess returns the id of the container's first process, zero when that
// has ended.
func (s *sandbox) firstProcess(ctx context.Context) (int, error) {
	c, err := s.inspect(ctx)
	switch {
	case errors.Is(err, backends.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	}
	return c.State.Pid, nil
}

// statistics are the engine's. They are zero for a container that has ended.
func (s *sandbox) statistics(ctx context.Context) (proc.Usage, error) {
	if e := s.b.engine(); e == nil || !e.cgroups {
		return proc.Usage{}, nil
	}
	ctx, cancel := bounded(ctx, requestPatience)
	defer cancel()
	answer, err := s.b.cli.ContainerStatsOneShot(ctx, s.handle.ID)
	if err != nil {
		if isGone(err) {
			return proc.Usage{}, nil
		}
		return proc.Usage{}, s.b.engineError(ctx, "ask for statistics", err)
	}
	defer answer.Body.Close()
	var stats container.StatsResponse
	if err := json.NewDecoder(answer.Body).Decode(&stats); err != nil {
		return proc.Usage{}, s.b.engineError(ctx, "read statistics", err)
	}
	memory := stats.MemoryStats
	cache, ok := memory.Stats["total_inactive_file"] // of cgroup v1
	if !ok {
		cache = memory.Stats["inactive_file"]
	}
	return proc.Usage{
		CPU:        time.Duration(stats.CPUStats.CPUUsage.TotalUsage),
		Memory:     int64(memory.Usage - min(cache, memory.Usage)),
		MemoryPeak: int64(max(memory.MaxUsage, memory.Usage)),
	}, nil
}
