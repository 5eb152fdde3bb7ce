package backendtest

import (
	"io"
	"testing"

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
