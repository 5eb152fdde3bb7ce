package tracing

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"claude-runner/agent"
	"claude-runner/session"
)

// task is a task's trace so far. Tracer.mu guards it.
type task struct {
	ctx   context.Context // the root span's
	root  trace.Span
	phase trace.Span      // queue, start or turn
	inner context.Context // the phase's
	tools map[string]tool // calls that have not ended, by tool id
}

type tool struct {
	ctx  context.Context
	span trace.Span
}

// TaskRefused does nothing: what was not taken has no trace.
func (t *Tracer) TaskRefused(session.Code) {}

// TaskAdmitted begins the task's trace.
func (t *Tracer) TaskAdmitted(s session.Task, a session.Arrival) {
	began := s.CreatedAt
	if a.Restored {
		began = time.Now()
	}
	ctx := t.parent.Extract(context.Background(), propagation.MapCarrier{"traceparent": a.TraceParent})
	ctx, root := t.tracer.Start(ctx, "task", trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(began), trace.WithAttributes(
		attribute.String("session.id", s.SessionID),
		attribute.String("claude_runner.task.id", s.ID),
		attribute.String("claude_runner.agent", s.Agent),
	))
	task := &task{ctx: ctx, root: root, tools: map[string]tool{}}
	if !a.Restored {
		_, submit := t.tracer.Start(ctx, "submit", trace.WithTimestamp(began))
		submit.End()
	}
	if s.State == session.TaskQueued {
		t.begin(task, "queue")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tasks[s.ID] = task
}

// TaskStarted does nothing: the queue's span ends when the agent's start begins.
func (t *Tracer) TaskStarted(session.Task) {}

// AgentStarting begins a start's span.
func (t *Tracer) AgentStarting(s session.Task) {
	t.with(s, func(task *task) { t.begin(task, "start") })
}

// AgentStarted begins a turn's span.
func (t *Tracer) AgentStarted(s session.Task, start session.Start) {
	t.with(s, func(task *task) {
		backend := attribute.String("claude_runner.backend", s.Backend)
		task.phase.SetAttributes(backend, attribute.String("claude_runner.start.temperature", string(start.Temperature)))
		t.begin(task, "turn")
		task.phase.SetAttributes(backend)
	})
}

// Event begins and ends the spans of tool calls, and notes model calls.
func (t *Tracer) Event(s session.Task, e session.Event) {
	switch e.Type {
	case agent.EventToolStart:
		t.with(s, func(task *task) { t.beginTool(task, e.Event) })
	case agent.EventToolEnd:
		t.with(s, func(task *task) { task.endTool(e.Event) })
	case agent.EventUsage:
		t.with(s, func(task *task) {
			if e.Usage != nil && task.phase != nil {
				task.phase.AddEvent("model call", trace.WithAttributes(usage(*e.Usage)...))
			}
		})
	}
}

// TaskEnded ends all of the task's spans.
func (t *Tracer) TaskEnded(s session.Task) {
	t.with(s, func(task *task) {
		r := s.Result
		task.root.SetAttributes(
			attribute.String("claude_runner.backend", s.Backend),
			attribute.String("claude_runner.task.state", string(s.State)),
			attribute.Float64("claude_runner.cost_usd", r.CostUSD),
			attribute.String("gen_ai.response.model", r.Model),
		)
		task.root.SetAttributes(usage(r.Usage)...)
		if r.Error != nil {
			code := string(r.Error.Code)
			fail(task.root, code)
			if task.phase != nil {
				fail(task.phase, code)
			}
		}
		task.end()
		delete(t.tasks, s.ID)
	})
}

// with calls do for the task's trace, where there is one.
func (t *Tracer) with(s session.Task, do func(*task)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if task := t.tasks[s.ID]; task != nil {
		do(task)
	}
}

// begin ends the phase before and begins one.
func (t *Tracer) begin(task *task, name string) {
	task.endPhase()
	task.inner, task.phase = t.tracer.Start(task.ctx, name)
}

func (t *Tracer) beginTool(task *task, e agent.Event) {
	ctx := task.inner
	if parent, ok := task.tools[e.ParentID]; ok {
		ctx = parent.ctx
	}
	if ctx == nil {
		ctx = task.ctx
	}
	ctx, span := t.tracer.Start(ctx, "tool "+e.Tool, trace.WithAttributes(
		attribute.String("gen_ai.tool.name", e.Tool),
		attribute.String("gen_ai.tool.call.id", e.ToolID),
	))
	task.tools[e.ToolID] = tool{ctx, span}
}

func (task *task) endTool(e agent.Event) {
	call, ok := task.tools[e.ToolID]
	if !ok {
		return
	}
	if e.IsError {
		fail(call.span, "tool_failed")
	}
	call.span.End()
	delete(task.tools, e.ToolID)
}

func fail(span trace.Span, code string) {
	span.SetStatus(codes.Error, code)
	span.SetAttributes(attribute.String("error.type", code))
}

// endPhase ends the phase, with the tool calls that were cut off in it.
func (task *task) endPhase() {
	for id, call := range task.tools {
		call.span.End()
		delete(task.tools, id)
	}
	if task.phase != nil {
		task.phase.End()
	}
}

func (task *task) end() {
	task.endPhase()
	task.root.End()
}

func usage(u agent.Usage) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.Int64("gen_ai.usage.input_tokens", u.InputTokens),
		attribute.Int64("gen_ai.usage.output_tokens", u.OutputTokens),
		attribute.Int64("gen_ai.usage.cache_read.input_tokens", u.CacheReadInputTokens),
		attribute.Int64("gen_ai.usage.cache_creation.input_tokens", u.CacheCreationInputTokens),
	}
}
