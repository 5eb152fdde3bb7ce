package scripted_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"claude-runner/agent/scripted"
)

// BenchmarkStream is one streamed answer over a connection that is kept, client
// included. The larger request is of the size that the CLI sends with few tools.
func BenchmarkStream(b *testing.B) {
	for name, padding := range map[string]int{"small": 0, "19kB": 19 << 10} {
		b.Run(name, func(b *testing.B) {
			_, url := start(b, builtin(b, "hello"), scripted.Options{})
			body, err := json.Marshal(with(with(question("hello"), "stream", true), "system", strings.Repeat("x", padding)))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				client := &http.Client{Transport: &http.Transport{}}
				defer client.CloseIdleConnections()
				for pb.Next() {
					response, err := client.Post(url+"/v1/messages", "application/json", bytes.NewReader(body))
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
		})
	}
}
