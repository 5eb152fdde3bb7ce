package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"claude-runner/session"
)

// state collects what is so at the moment of a scrape.
type state struct{ manager *session.Manager }

var (
	queued = prometheus.NewDesc("claude_runner_tasks_queued",
		"Tasks that wait.", nil, nil)
	running = prometheus.NewDesc("claude_runner_tasks_running",
		"Tasks that start or run.", nil, nil)
	up = prometheus.NewDesc("claude_runner_backend_up",
		"Whether the backend worked when it was last needed or asked.", []string{"backend"}, nil)
	checked = prometheus.NewDesc("claude_runner_backend_last_check_timestamp_seconds",
		"When the backend was last needed or asked, as Unix time.", []string{"backend"}, nil)
)

// Describe is part of prometheus.Collector.
func (s *state) Describe(out chan<- *prometheus.Desc) {
	out <- queued
	out <- running
	out <- up
	out <- checked
}

// Collect is part of prometheus.Collector.
func (s *state) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	load := s.manager.Load()
	gauge(queued, float64(load.Queued))
	gauge(running, float64(load.Running))
	for name, h := range s.manager.BackendHealth() {
		healthy := 0.0
		if h.Healthy {
			healthy = 1
		}
		gauge(up, healthy, name)
		gauge(checked, float64(h.At.UnixMilli())/1000, name)
	}
}
