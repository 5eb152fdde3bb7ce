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

const (
	benchSandboxes = 32
	benchTurn      = 20 * time.Millisecond
	benchPause     = 20 * time.Millisecond
)

// BenchmarkControl measures what the runner's questions about a task cost, here
// and in the daemon: leases go on for another task, with budgets of its own,
// some milliseconds later its totals are asked for, and its meter is forgotten.
// Nothing calls a model. About 800 tasks pass in a second. What the runner's side
// takes without questions is that of the waiting.
func BenchmarkControl(b *testing.B) {
	b.Run("questions", func(b *testing.B) { benchTasks(b, true) })
	b.Run("none", func(b *testing.B) { benchTasks(b, false) })
}

func benchTasks(b *testing.B, questions bool) {
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
	leases := make([]gateway.Lease, benchSandboxes)
	for i := range leases {
		l := lease(b, "http://127.0.0.1:9")
		l.ID = fmt.Sprintf("sandbox-%d", i)
		if err := client.Open(b.Context(), l); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = client.Close(context.Background(), l.ID) })
		leases[i] = l
	}
	var asked atomic.Int64 // nanoseconds that answers took
	ask := func(question func() error) {
		if !questions {
			return
		}
		began := time.Now()
		if err := question(); err != nil {
			b.Error(err)
		}
		asked.Add(int64(time.Since(began)))
	}
	own, daemon := ownTime(b), processTime(b, pids[0])
	b.ResetTimer()
	var tasks atomic.Int64
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
				ask(func() error { return client.Open(b.Context(), l) })
				time.Sleep(jitter(benchTurn))
				ask(func() error { _, err := client.Totals(b.Context(), l.Meter); return err })
				ask(func() error { return client.Forget(b.Context(), l.Meter) })
				time.Sleep(jitter(benchPause))
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
