package bench

import (
	"strings"
	"testing"
)

// TestSoakGrowth holds what a soak calls growth.
func TestSoakGrowth(t *testing.T) {
	soak := func(change func(i int, s *soakSample)) []string {
		r := &soakReport{}
		for i := range soakSamples {
			s := soakSample{ServerBytes: 50 << 20, Goroutines: 100, DatabaseBytes: 1 << 20, HotAnswerMS: 20, Turns: i * 1000}
			change(i, &s)
			r.Samples = append(r.Samples, s)
		}
		r.compare()
		return r.grown()
	}
	if got := soak(func(i int, s *soakSample) {
		s.ServerBytes += float64(i%5) * (1 << 20)
		s.DatabaseBytes += 500 * float64(s.Turns)
	}); len(got) > 0 {
		t.Errorf("a steady server: %q", got)
	}
	for want, change := range map[string]func(int, *soakSample){
		"memory of the server":      func(i int, s *soakSample) { s.ServerBytes += float64(i) * (1 << 20) },
		"goroutines of the server":  func(i int, s *soakSample) { s.Goroutines += float64(i) },
		"folders of sessions":       func(i int, s *soakSample) { s.Folders = float64(i) },
		"database":                  func(_ int, s *soakSample) { s.DatabaseBytes += 3000 * float64(s.Turns) },
		"answer of a hot turn, p50": func(i int, s *soakSample) { s.HotAnswerMS += float64(i) },
	} {
		if got := soak(change); len(got) != 1 || !strings.HasPrefix(got[0], want+":") {
			t.Errorf("%s grows: %q", want, got)
		}
	}
}
