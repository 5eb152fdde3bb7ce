package docker_test

import (
	"context"
	"io"
	"testing"
	"time"

	"claude-runner/backends"
	"claude-runner/backends/docker"
)

// BenchmarkSandbox measures the parts of a sandbox's life, with each network.
func BenchmarkSandbox(b *testing.B) {
	engineClient(b)
	backend := newBackend(b, docker.Config{}, "bench")
	defer backend.Close()
	for _, network := range []backends.NetworkMode{backends.NetworkNone, backends.NetworkOpen} {
		b.Run(string(network), func(b *testing.B) {
			var start, run, stop time.Duration
			spec := backends.Spec{
				Name: "bench", Image: testImage, Argv: []string{"true"}, User: testUser(), Network: network,
				Limits: backends.Limits{Memory: 1 << 30, CPUs: 1, PIDs: 256, OpenFiles: 1024, Tmpfs: map[string]int64{"/tmp": 64 << 20}},
			}
			ctx := context.Background()
			for b.Loop() {
				began := time.Now()
				sb, err := backend.Start(ctx, spec)
				if err != nil {
					b.Fatal(err)
				}
				started := time.Now()
				_, err = io.Copy(io.Discard, sb.Stdout())
				exit, waited := sb.Wait(ctx)
				if err != nil || waited != nil || exit != (backends.Exit{}) {
					b.Fatalf("%v, %+v, %v", err, exit, waited)
				}
				ended := time.Now()
				if err := sb.Stop(ctx, 0); err != nil {
					b.Fatal(err)
				}
				start, run, stop = start+started.Sub(began), run+ended.Sub(started), stop+time.Since(ended)
			}
			for unit, d := range map[string]time.Duration{"ms/Start": start, "ms/exit": run, "ms/Stop": stop} {
				b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), unit)
			}
		})
	}
}
