package gateway_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"claude-runner/agent/gateway"
	"claude-runner/agent/scripted"
)

// BenchmarkAdded measures what the gateway, in its own process, adds to a call:
// each call goes once directly and once through the socket, in turns.
func BenchmarkAdded(b *testing.B) {
	for _, bench := range []struct {
		name   string
		stream bool
		size   int // of the message, in bytes; the CLI's requests have 20 to 120 KB
	}{{"json", false, 100}, {"stream", true, 100}, {"stream-100KB", true, 100 << 10}} {
		b.Run(bench.name, func(b *testing.B) {
			direct, through := ways(b)
			data := body(bench.stream, strings.Repeat("word ", bench.size/5))
			times := [2][]time.Duration{}
			for range 20 { // connections are there
				benchCall(b, direct, data)
				benchCall(b, through, data)
			}
			for b.Loop() {
				for i, way := range []way{direct, through} {
					began := time.Now()
					benchCall(b, way, data)
					times[i] = append(times[i], time.Since(began))
				}
			}
			for i := range times {
				slices.Sort(times[i])
			}
			at := func(i int, share float64) float64 {
				return float64(times[i][int(share*float64(len(times[i])-1))].Microseconds())
			}
			b.ReportMetric(at(0, 0.5), "direct-p50-µs")
			b.ReportMetric(at(1, 0.5)-at(0, 0.5), "added-p50-µs")
			b.ReportMetric(at(1, 0.99)-at(0, 0.99), "added-p99-µs")
			b.ReportMetric(0, "ns/op") // of both together: it says nothing
		})
	}
}

// BenchmarkThroughput measures calls in parallel through one socket.
func BenchmarkThroughput(b *testing.B) {
	for _, name := range []string{"direct", "gateway"} {
		b.Run(name, func(b *testing.B) {
			direct, through := ways(b)
			way := direct
			if name == "gateway" {
				way = through
			}
			data := body(true, "hi")
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					benchCall(b, way, data)
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

type way struct {
	client     *http.Client
	url, token string
}

func ways(b *testing.B) (direct, through way) {
	_, url := upstream(b, `rules: [{answer: [{text: "an answer of some length, in a few deltas, as they are said"}], usage: {input_tokens: 10, output_tokens: 5}}]`,
		scripted.Options{KeepRequests: -1})
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	b.Cleanup(transport.CloseIdleConnections)
	l := lease(b, url)
	client, err := gateway.Start(b.Context(), gateway.Options{StateDir: filepath.Join(b.TempDir(), "state")})
	if err == nil {
		err = client.Open(b.Context(), l)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = client.Close(context.Background(), l.ID)
		_ = client.Shutdown(context.Background())
	})
	return way{&http.Client{Transport: transport}, url, key}, way{inside(b, l.Socket), "http://model", token}
}

func benchCall(b *testing.B, w way, data []byte) {
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, w.url+"/v1/messages", bytes.NewReader(data))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("X-Api-Key", w.token)
	response, err := w.client.Do(r)
	if err != nil {
		b.Error(err)
		return
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
		b.Errorf("%s %v", response.Status, err)
	}
}
