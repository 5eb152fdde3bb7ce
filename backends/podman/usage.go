package podman

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"claude-runner/backends"
	"claude-runner/backends/internal/proc"
)

// Usage reads the container's own cgroup, where it has one that can be read
// from here; the first call finds that with a request to the service. Rootless
// on cgroup v1 it has none: there memory is the sum of the proportional set
// sizes of the container's processes, read at least twice a minute, with the
// growth of each process since. Where the runner may not read these either,
// every call asks the service, whose figure may hold page cache, and which has
// none rootless on cgroup v1.
func (s *sandbox) Usage(ctx context.Context) (backends.Usage, error) {
	select {
	case <-s.exited:
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
	found, err := s.b.inspect(ctx, s.handle.ID)
	switch {
	case errors.Is(err, backends.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	}
	return found.State.PID, nil
}

// statistics are the service's.
func (s *sandbox) statistics(ctx context.Context) (proc.Usage, error) {
	e, err := s.b.known(ctx)
	if err != nil || e.rootless() && e.info.Host.CgroupVersion != "v2" {
		return proc.Usage{}, err
	}
	var stats statsResponse
	query := url.Values{"containers": {s.handle.ID}, "stream": {"false"}}
	err = s.b.client.call(ctx, http.MethodGet, "/containers/stats", query, nil, &stats)
	if err != nil || len(stats.Stats) == 0 {
		if status(err) != 0 {
			err = nil // it has ended meanwhile
		}
		return proc.Usage{}, err
	}
	return proc.Usage{CPU: time.Duration(stats.Stats[0].CPUNano), Memory: stats.Stats[0].MemUsage}, nil
}
