package gateway_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"claude-runner/agent/gateway"
)

// BenchmarkControl measures what the runner's questions about a task cost, here
// and in the daemon: leases go on for another task, with budgets of its own,
// some milliseconds later its totals are asked for, and its meter is forgotten.
// Nothing calls a model. About 800 tasks pass in a second.
func BenchmarkControl(b *testing.B) {
	const (
		sandboxes = 32
		turn      = 20 * time.Millisecond
		pause     = 20 * time.Millisecond
	)
	dir := filepath.Join(b.TempDir(), "state")
	client, err := gateway.Start(b.Context(), gateway.Options{StateDir: dir})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Shutdown(context.Background()) })
	pids := daemons(b, dir)
	if len(pids) != 1 {
		b.Fatalf("daemons %v", pids)
	}
	leases := make([]gateway.Lease, sandboxes)
	for i := range leases {
		l := lease(b, "http://127.0.0.1:9")
		l.ID = fmt.Sprintf("sandbox-%d", i)
		if err := client.Open(b.Context(), l); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = client.Close(context.Background(), l.ID) })
		leases[i] = l
	}
	own, daemon := ownTime(b), processTime(b, pids[0])
	b.ResetTimer()
	var tasks atomic.Int64
	var asked atomic.Int64 // nanoseconds that answers took
	var all sync.WaitGroup
	for _, l := range leases {
		all.Go(func() {
			for {
				n := tasks.Add(1)
				if n > int64(b.N) {
					return
				}
				l.Meter = fmt.Sprintf("01996a40-0000-7000-8000-%012d", n)
				l.Budgets = []gateway.Budget{{Name: "task:" + l.Meter, LimitUSD: 1}, {Name: "session:" + l.Meter, LimitUSD: 5}}
				began := time.Now()
				if err := client.Open(b.Context(), l); err != nil {
					b.Error(err)
				}
				asked.Add(int64(time.Since(began)))
				time.Sleep(jitter(turn))
				began = time.Now()
				if got, err := client.Totals(b.Context(), l.Meter); err != nil || got.Calls != 0 {
					b.Errorf("%+v %v", got, err)
				}
				asked.Add(int64(time.Since(began)))
				if err := client.Forget(b.Context(), l.Meter); err != nil {
					b.Error(err)
				}
				time.Sleep(jitter(pause))
			}
		})
	}
	all.Wait()
	b.StopTimer()
	n := float64(b.N)
	b.ReportMetric(float64((ownTime(b)-own).Microseconds())/n, "runner-cpu-µs/task")
	b.ReportMetric(float64((processTime(b, pids[0])-daemon).Microseconds())/n, "daemon-cpu-µs/task")
	b.ReportMetric(float64(time.Duration(asked.Load()).Microseconds())/n/2, "answer-µs")
	b.ReportMetric(n/b.Elapsed().Seconds(), "tasks/s")
	b.ReportMetric(0, "ns/op") // it waits on purpose
}

// jitter is d, give or take a half.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// ownTime is the processor time of this process.
func ownTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// processTime is the processor time of a process's threads that have not ended.
func processTime(b *testing.B, pid int) (sum time.Duration) {
	b.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		b.Skip("there is no schedstat")
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has just ended
		}
		running, _, _ := strings.Cut(string(data), " ")
		n, err := strconv.ParseInt(running, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(n)
	}
	return sum
}
