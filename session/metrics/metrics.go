// Package metrics measures a session.Manager for Prometheus. No label holds
// what clients choose freely, such as a session's id: the number of series is
// bounded by the configuration.
package metrics

import (
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"claude-runner/session"
)

// Metrics is a session.Observer that counts. All of it begins at zero with the
// process.
type Metrics struct {
	registry *prometheus.Registry

	refused   *prometheus.CounterVec
	tasks     *prometheus.CounterVec
	durations *prometheus.HistogramVec
	waits     *prometheus.HistogramVec
	starts    *prometheus.HistogramVec
	boots     *prometheus.HistogramVec
	events    *prometheus.CounterVec
	cost      *prometheus.CounterVec
	tokens    *prometheus.CounterVec
}

// The buckets' upper bounds, in seconds.
var (
	startBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}
	waitBuckets  = []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 900, 3600}
	taskBuckets  = []float64{.1, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600}
)

// New returns Metrics of a runner of some version.
func New(version string) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		refused: counter("claude_runner_refusals_total",
			"Submissions that were not taken.", "code"),
		tasks: counter("claude_runner_tasks_total",
			"Tasks that ended; code is empty for those that succeeded.", "agent", "backend", "state", "code"),
		durations: histogram("claude_runner_task_duration_seconds",
			"From a task's start to its end.", taskBuckets, "agent", "state"),
		waits: histogram("claude_runner_queue_wait_seconds",
			"From a task's submission to its start.", waitBuckets, "agent"),
		starts: histogram("claude_runner_start_duration_seconds",
			"From a task's start to its agent's first event: of a new agent (cold), of one that had booted ahead (warm), of one that was kept (hot), or of one that an earlier process had started (recovered).",
			startBuckets, "backend", "temperature"),
		boots: histogram("claude_runner_boot_wait_seconds",
			"How long tasks with a new agent waited for others to boot (limits.boots).", waitBuckets, "agent"),
		events: counter("claude_runner_events_total",
			"Events of sessions.", "type"),
		cost: counter("claude_runner_cost_dollars_total",
			"What ended tasks cost, in US dollars, by the model that served most of each.", "agent", "model"),
		tokens: counter("claude_runner_tokens_total",
			"Tokens that ended tasks used, by the model that served most of each.", "agent", "model", "kind"),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "claude_runner_build_info", Help: "Always 1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	})
	info.Set(1)
	m.registry.MustRegister(
		m.refused, m.tasks, m.durations, m.waits, m.starts, m.boots, m.events, m.cost, m.tokens, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Watch lets the metrics show what manager has to do, and how its backends were
// when they were last needed. It is called once.
func (m *Metrics) Watch(manager *session.Manager) {
	m.registry.MustRegister(&state{manager})
}

// Handler answers scrapes. None of them asks an engine or the database.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}
