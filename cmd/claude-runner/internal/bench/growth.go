package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// soakQuarter compares a figure's median in the first and the last quarter of a
// soak.
type soakQuarter struct {
	What  string  `json:"what"`
	Unit  string  `json:"unit"`
	First float64 `json:"first"`
	Last  float64 `json:"last"`
	Grown bool    `json:"grown"`
}

// growths are the figures that must not grow: by more than a share of the first
// quarter's and some more, which are this machine's noise.
var growths = []struct {
	what, unit  string
	share, more float64
	of          func(soakSample) float64
}{
	{"memory of the server", "bytes", 0.2, 8 << 20, func(s soakSample) float64 { return s.ServerBytes }},
	{"memory of the gateway", "bytes", 0.2, 8 << 20, func(s soakSample) float64 { return s.GatewayBytes }},
	{"memory of all agents", "bytes", 0.25, 64 << 20, func(s soakSample) float64 { return s.AgentsBytes }},
	{"processes of all agents", "", 0.1, 4, func(s soakSample) float64 { return s.AgentProcesses }},
	{"descriptors of the server", "", 0.1, 5, func(s soakSample) float64 { return s.ServerDescriptors }},
	{"descriptors of the gateway", "", 0.1, 5, func(s soakSample) float64 { return s.GatewayDescriptors }},
	{"goroutines of the server", "", 0.1, 10, func(s soakSample) float64 { return s.Goroutines }},
	{"folders of sessions", "", 0.1, 2, func(s soakSample) float64 { return s.Folders }},
	{"answer of a hot turn, p50", "ms", 0.5, 10, func(s soakSample) float64 { return s.HotAnswerMS }},
}

// databasePerTurn is what a turn of a session that is deleted may leave in the
// database: its lines in the audit, and its use. Its events are far more.
const databasePerTurn = 1 << 10

// compare holds the last quarter against the first. In a soak too short for
// quarters there is nothing to compare.
func (r *soakReport) compare() {
	n := len(r.Samples) / 4
	if n == 0 {
		return
	}
	median := func(samples []soakSample, of func(soakSample) float64) float64 {
		q := quantiles{}
		for _, s := range samples {
			q.samples = append(q.samples, of(s))
		}
		return q.at(0.5)
	}
	first, last := r.Samples[:n], r.Samples[len(r.Samples)-n:]
	for _, g := range growths {
		a, b := median(first, g.of), median(last, g.of)
		r.Compared = append(r.Compared, soakQuarter{g.what, g.unit, a, b, b > a*(1+g.share)+g.more})
	}
	size := func(s soakSample) float64 { return s.DatabaseBytes }
	turns := func(s soakSample) float64 { return float64(s.Turns) }
	a, b := median(first, size), median(last, size)
	bound := databasePerTurn*(median(last, turns)-median(first, turns)) + 8<<20 // the log that is written ahead
	r.Compared = append(r.Compared, soakQuarter{"database", "bytes", a, b, b-a > bound})
}

// grown says what has grown.
func (r *soakReport) grown() []string {
	var all []string
	for _, q := range r.Compared {
		if q.Grown {
			all = append(all, fmt.Sprintf("%s: from %s to %s", q.What, q.show(q.First), q.show(q.Last)))
		}
	}
	return all
}

func (q soakQuarter) show(v float64) string {
	switch q.Unit {
	case "bytes":
		return bytesOf(int64(v))
	case "":
		return number(v)
	}
	return number(v) + " " + q.Unit
}

func (r *soakReport) text(out io.Writer) error {
	fmt.Fprintf(out, "%d turns, %d sessions that came and went\n", r.Turns, r.NewSessions)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tfirst quarter\tlast quarter\t")
	for _, q := range r.Compared {
		word := ""
		if q.Grown {
			word = "grown"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", q.What, q.show(q.First), q.show(q.Last), word)
	}
	return w.Flush()
}
