package backendtest

import (
	"io"
	"slices"
	"testing"
	"time"

	"claude-runner/backends"
)

// Benchmark measures what a sandbox costs beyond what runs in it.
func Benchmark(b *testing.B, h Harness) {
	s := newSuite(b, h)
	backend := s.backend(b)

	// From Start to the end of Stop of a process that does nothing.
	b.Run("Start to Stop", func(b *testing.B) {
		for b.Loop() {
			spec := s.shell("")
			spec.Argv = []string{"true"}
			sb := s.start(b, backend, spec)
			if r := finish(b, sb); r.exit != (backends.Exit{}) {
				b.Fatalf("ended with %+v", r.exit)
			}
			stop(b, sb, 0)
		}
	})

	// The same, as an agent's sandbox is: from Start to the process's first
	// output, to its end and to the end of Stop. The medians.
	b.Run("cold", func(b *testing.B) {
		spec := s.agentLike(b)
		var output, end, stopped []time.Duration
		for b.Loop() {
			began := time.Now()
			sb := s.start(b, backend, spec)
			if _, err := io.ReadFull(sb.Stdout(), make([]byte, 1)); err != nil {
				b.Fatal(err)
			}
			output = append(output, time.Since(began))
			finish(b, sb)
			end = append(end, time.Since(began))
			stop(b, sb, 0)
			stopped = append(stopped, time.Since(began))
		}
		for unit, times := range map[string][]time.Duration{"ms-to-output": output, "ms-to-end": end, "ms-to-stopped": stopped} {
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, unit)
		}
	})

	// From a write to Stdin to the answer on Stdout.
	b.Run("round trip", func(b *testing.B) {
		sb := s.start(b, backend, s.shell("exec cat"))
		line := []byte("a line of some length, as a protocol has them\n")
		for b.Loop() {
			if _, err := sb.Stdin().Write(line); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(sb.Stdout(), line); err != nil {
				b.Fatal(err)
			}
		}
	})

	// 64 MiB through Stdout.
	b.Run("throughput", func(b *testing.B) {
		const size = 64 << 20
		b.SetBytes(size)
		for b.Loop() {
			spec := s.shell("")
			spec.Argv = []string{"head", "-c", "67108864", "/dev/zero"}
			sb := s.start(b, backend, spec)
			if n, err := io.Copy(io.Discard, sb.Stdout()); n != size || err != nil {
				b.Fatalf("read %d bytes, %v", n, err)
			}
			stop(b, sb, 0)
		}
	})

	// Usage of a sandbox with some processes that do nothing, after the first.
	b.Run("usage", func(b *testing.B) {
		sb := s.start(b, backend, s.shell("sleep $"+markVar+" & sleep $"+markVar+" & echo ready; wait"))
		expectOutput(b, sb.Stdout(), "ready\n")
		usageOf(b, sb)
		for b.Loop() {
			if _, err := sb.Usage(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// agentLike describes a sandbox with all that an agent's has, whose program says
// a line.
func (s *suite) agentLike(b *testing.B) backends.Spec {
	spec := s.shell("")
	spec.Argv = []string{"echo", "hello"}
	spec.Limits = backends.Limits{Memory: 1 << 30, CPUs: 1, PIDs: 256, OpenFiles: 4096}
	if slices.Contains(s.caps.Networks, backends.NetworkNone) {
		spec.Network = backends.NetworkNone
	}
	if s.caps.Enforced.Tmpfs {
		spec.Limits.Tmpfs = map[string]int64{"/tmp": 64 << 20}
	}
	for _, target := range []string{"/workspace", "/home/agent", "/run/runner"} {
		spec.Mounts = append(spec.Mounts, backends.Mount{Source: OwnedDir(b, s.user), Target: target})
	}
	return spec
}
