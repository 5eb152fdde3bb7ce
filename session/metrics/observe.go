package metrics

import "claude-runner/session"

// TaskRefused counts a refusal.
func (m *Metrics) TaskRefused(code session.Code) { m.refused.WithLabelValues(string(code)).Inc() }

// TaskAdmitted does nothing: what waits and runs is asked of the Manager.
func (m *Metrics) TaskAdmitted(session.Task, session.Arrival) {}

// TaskStarted measures how long the task waited.
func (m *Metrics) TaskStarted(t session.Task) {
	m.waits.WithLabelValues(t.Agent).Observe(t.StartedAt.Sub(t.CreatedAt).Seconds())
}

// AgentStarting does nothing: AgentStarted tells how long it took.
func (m *Metrics) AgentStarting(session.Task) {}

// AgentStarted measures the agent's start.
func (m *Metrics) AgentStarted(t session.Task, s session.Start) {
	m.starts.WithLabelValues(t.Backend, string(s.Temperature)).Observe(s.Took.Seconds())
	if s.Temperature == session.StartCold {
		m.boots.WithLabelValues(t.Agent).Observe(s.Waited.Seconds())
	}
}

// Event counts an event.
func (m *Metrics) Event(_ session.Task, e session.Event) {
	m.events.WithLabelValues(string(e.Type)).Inc()
}

// TaskEnded counts the task with what it used.
func (m *Metrics) TaskEnded(t session.Task) {
	code, r := "", t.Result
	if r.Error != nil {
		code = string(r.Error.Code)
	}
	m.tasks.WithLabelValues(t.Agent, t.Backend, string(t.State), code).Inc()
	if t.StartedAt.IsZero() {
		return // it was aborted while it waited
	}
	m.durations.WithLabelValues(t.Agent, string(t.State)).Observe(r.Duration.Seconds())
	m.cost.WithLabelValues(t.Agent, r.Model).Add(max(0, r.CostUSD))
	for kind, n := range map[string]int64{
		"input": r.Usage.InputTokens, "output": r.Usage.OutputTokens,
		"cache_read": r.Usage.CacheReadInputTokens, "cache_creation": r.Usage.CacheCreationInputTokens,
	} {
		m.tokens.WithLabelValues(t.Agent, r.Model, kind).Add(float64(max(0, n)))
	}
}
