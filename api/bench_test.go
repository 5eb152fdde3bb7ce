package api_test

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"claude-runner/backends/backendtest"
	"claude-runner/session/sample"
	"claude-runner/session/sqlite"
)

// memory returns the bytes of the heap and of stacks that are in use.
func memory() int64 {
	runtime.GC()
	runtime.GC() // what finalizers let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// BenchmarkSubmit tells what a submit takes by itself: the request, the checks
// and the writing down. No agent starts.
func BenchmarkSubmit(b *testing.B) {
	w := newWorld(b, func(s *setup) { s.session.Concurrency, s.session.QueueDepth = 1, 1<<30 })
	w.held("holding")
	b.ResetTimer()
	benchSubmits(b, w)
	w.letGo("holding")
	w.close()
}

// benchSubmits submits tasks, one after the other, half of them to new
// sessions, and reports the median time.
func benchSubmits(b *testing.B, w *world) {
	b.Helper()
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		took = append(took, w.timed(http.MethodPost, "/task", task(fmt.Sprintf("bench-%d", n/2), "echo"), http.StatusAccepted))
	}
	report(b, took, "")
}

// timed returns how long an answer takes to be read.
func (w *world) timed(method, path, body string, status int) time.Duration {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Prefer", "respond-async")
	began := time.Now()
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	took := time.Since(began)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode != status {
		w.t.Fatalf("%s %s: %d with %d bytes", method, path, resp.StatusCode, n)
	}
	return took
}

func report(b *testing.B, took []time.Duration, what string) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(milliseconds(took[len(took)/2]), what+"ms-p50")
	b.ReportMetric(milliseconds(took[len(took)*99/100]), what+"ms-p99")
}

// BenchmarkLargeDatabase tells how long the server takes to start with ten
// thousand sessions and a million events, and to answer then.
func BenchmarkLargeDatabase(b *testing.B) {
	dir := backendtest.SharedDir(b)
	fill(b, filepath.Join(dir, "runner.db"), 10000, 100)
	held := func(s *setup) { s.session.Concurrency, s.session.QueueDepth = 1, 1<<30 }
	b.Run("start", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			began := time.Now()
			w := openWorld(b, dir, held)
			w.get("/readyz")
			took = append(took, time.Since(began))
			w.close()
		}
		report(b, took, "")
	})
	w := openWorld(b, dir, held)
	for _, path := range []string{"/sessions", "/sessions?limit=100", "/session/session-5000", "/tasks?limit=50", "/tasks?sessionId=session-5000", "/session/session-5000/events", "/usage?group_by=day"} {
		b.Run("GET "+path[1:], func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				took = append(took, w.timed(http.MethodGet, path, "", http.StatusOK))
			}
			report(b, took, "")
		})
	}
	w.held("holding")
	b.Run("submit", func(b *testing.B) { benchSubmits(b, w) })
	w.letGo("holding")
	w.close()
}

// BenchmarkStoredSessions tells what ten thousand stored sessions cost beside
// a hundred (more than a page, too): a submit, a session and a page of them.
func BenchmarkStoredSessions(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(fmt.Sprintf("sessions=%d", n), func(b *testing.B) {
			dir := backendtest.SharedDir(b)
			fill(b, filepath.Join(dir, "runner.db"), n, 5)
			w := openWorld(b, dir, func(s *setup) { s.session.Concurrency, s.session.QueueDepth = 1, 1<<30 })
			for _, path := range []string{"/sessions?limit=50", "/session/session-5"} {
				b.Run("GET "+path[1:], func(b *testing.B) {
					var took []time.Duration
					for b.Loop() {
						took = append(took, w.timed(http.MethodGet, path, "", http.StatusOK))
					}
					report(b, took, "")
				})
			}
			w.held("holding")
			b.Run("submit", func(b *testing.B) { benchSubmits(b, w) })
			w.letGo("holding")
			w.close()
		})
	}
}

// fill makes a database with sessions of one ended task and some events each.
func fill(b *testing.B, path string, sessions, events int) {
	b.Helper()
	store, err := sqlite.Open(b.Context(), path)
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	if err := sample.Fill(b.Context(), store, "shell", sessions, events); err != nil {
		b.Fatal(err)
	}
}
