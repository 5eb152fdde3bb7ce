package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"claude-runner/agent"
)

// scrape returns every sample by its name with labels, as Prometheus sees it;
// histograms by their count alone.
func (w *world) scrape() map[string]float64 {
	w.t.Helper()
	a := w.do(http.MethodGet, "/metrics", "")
	if a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
		w.t.Fatalf("GET /metrics: %d %v %s", a.status, a.header, a.body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(a.body))
	if err != nil {
		w.t.Fatal(err)
	}
	samples := map[string]float64{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			samples[name+"{"+strings.Join(labels, ",")+"}"] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return samples
}

func (w *world) checkSamples(want map[string]float64) {
	w.t.Helper()
	got := w.scrape()
	for name, value := range want {
		if v, ok := got[name]; !ok || v != value {
			w.t.Errorf("%s is %v (there: %v), want %v", name, v, ok, value)
		}
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.session.QueueDepth = 1 })
	for range 2 {
		w.post("s", "echo hello; echo noise")
	}
	w.post("s", "echo FAIL max_turns")
	w.post("o", "echo", "agent", "other")
	w.post("new", "echo", "agent", "nobody")
	held := w.held("held")
	queued := w.background("held", "echo")
	w.queued("held", 1)
	w.post("full", "echo")
	const starts = "claude_runner_start_duration_seconds{backend=local,temperature=cold}"
	eventually(t, "the held task's agent has started", func() bool { return w.scrape()[starts] == 5 })

	w.checkSamples(map[string]float64{
		"claude_runner_tasks_total{agent=shell,backend=local,code=,state=succeeded}":       2,
		"claude_runner_tasks_total{agent=other,backend=local,code=,state=succeeded}":       1,
		"claude_runner_tasks_total{agent=shell,backend=local,code=max_turns,state=failed}": 1,
		"claude_runner_task_duration_seconds{agent=shell,state=succeeded}":                 2,
		"claude_runner_queue_wait_seconds{agent=shell}":                                    4,
		"claude_runner_events_total{type=task_queued}":                                     6,
		"claude_runner_events_total{type=task_start}":                                      5,
		"claude_runner_events_total{type=text}":                                            3,
		"claude_runner_events_total{type=thinking}":                                        2,
		"claude_runner_events_total{type=task_complete}":                                   3,
		"claude_runner_events_total{type=task_error}":                                      1,
		"claude_runner_cost_dollars_total{agent=shell,model=sh}":                           0.75,
		"claude_runner_cost_dollars_total{agent=other,model=sh}":                           0.25,
		"claude_runner_tokens_total{agent=shell,kind=input,model=sh}":                      9,
		"claude_runner_tokens_total{agent=shell,kind=output,model=sh}":                     15,
		"claude_runner_tokens_total{agent=shell,kind=cache_read,model=sh}":                 0,
		"claude_runner_refusals_total{code=agent_not_found}":                               1,
		"claude_runner_refusals_total{code=queue_full}":                                    1,
		"claude_runner_tasks_running{}":                                                    1,
		"claude_runner_tasks_queued{}":                                                     1,
		"claude_runner_backend_up{backend=local}":                                          1,
	})
	w.letGo("held")
	<-held
	<-queued
	eventually(t, "nothing runs", func() bool { return w.scrape()["claude_runner_tasks_running{}"] == 0 })
	w.checkSamples(map[string]float64{"claude_runner_tasks_queued{}": 0})
}

func TestMetricsAreWellNamed(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.api.APIKeys = []agent.Secret{"key"} })
	w.post("a-session-of-its-own", "echo")
	body := w.do(http.MethodGet, "/metrics", "").body
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %+v, %v", problems, err)
	}
	for _, want := range []string{"go_goroutines", "process_cpu_seconds_total", `version="v1.2.3"`} {
		if !strings.Contains(body, want) {
			t.Errorf("there is no %s in the metrics", want)
		}
	}
	if strings.Contains(body, "a-session-of-its-own") {
		t.Error("metrics name a session")
	}
	if a := w.do(http.MethodGet, "/metrics", "", "Authorization", ""); a.status != http.StatusUnauthorized {
		t.Errorf("without a key: %d", a.status)
	}
	for line := range strings.Lines(w.logs.String()) {
		if strings.Contains(line, `"path":"/metrics","status":200`) && !strings.Contains(line, `"level":"DEBUG"`) {
			t.Errorf("a scrape is in the log: %s", line)
		}
	}
}

// TestNoMetrics asks past the world's check against the description, which is
// of a server that has metrics.
func TestNoMetrics(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.api.Metrics = nil })
	resp, err := w.client.Get(w.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("GET /metrics: %s", resp.Status)
	}
}
