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
	booting = prometheus.NewDesc("claude_runner_agents_booting",
		"Agents that boot.", nil, nil)
	waiting = prometheus.NewDesc("claude_runner_agents_waiting_to_boot",
		"Agents that wait until fewer others boot.", nil, nil)
	idle = prometheus.NewDesc("claude_runner_agents_idle",
		"Agents that wait for a message: in their session (hot), or for a new one (warm).", []string{"temperature"}, nil)
	idleMemory = prometheus.NewDesc("claude_runner_agents_idle_memory_bytes",
		"What agents take that wait for a message, when they were last measured.", nil, nil)
	up = prometheus.NewDesc("claude_runner_backend_up",
		"Whether the backend worked when it was last needed or asked.", []string{"backend"}, nil)
	checked = prometheus.NewDesc("claude_runner_backend_last_check_timestamp_seconds",
		"When the backend was last needed or asked, as Unix time.", []string{"backend"}, nil)
)

// Describe is part of prometheus.Collector.
func (s *state) Describe(out chan<- *prometheus.Desc) {
	out <- queued
	out <- running
	out <- booting
	out <- waiting
	out <- idle
	out <- idleMemory
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
	boots, agents := s.manager.Boots(), s.manager.IdleAgents()
	gauge(booting, float64(boots.Booting))
	gauge(waiting, float64(boots.Waiting))
	gauge(idle, float64(agents.Hot), "hot")
	gauge(idle, float64(agents.Warm), "warm")
	gauge(idleMemory, float64(agents.Memory))
	for name, h := range s.manager.BackendHealth() {
		healthy := 0.0
		if h.Healthy {
			healthy = 1
		}
		gauge(up, healthy, name)
		gauge(checked, float64(h.At.UnixMilli())/1000, name)
	}
}
