package tracing_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"claude-runner/agent"
	"claude-runner/session"
	"claude-runner/session/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ session.Observer = (*tracing.Tracer)(nil)

func TestEnabled(t *testing.T) {
	const endpoint, of = "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"
	for name, c := range map[string]struct {
		env  map[string]string
		want bool
	}{
		"nothing is set":        {nil, false},
		"an endpoint":           {map[string]string{endpoint: of}, true},
		"an endpoint of traces": {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": of}, true},
		"the SDK is off":        {map[string]string{endpoint: of, "OTEL_SDK_DISABLED": "True"}, false},
		"traces are off":        {map[string]string{endpoint: of, "OTEL_TRACES_EXPORTER": "none"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, v := range []string{endpoint, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"} {
				t.Setenv(v, c.env[v])
			}
			if got := tracing.Enabled(); got != c.want {
				t.Errorf("Enabled: %v", got)
			}
		})
	}
}

// sent returns the spans, by name, that a Tracer sends of what observe tells it.
func sent(t *testing.T, observe func(session.Observer)) map[string]*tracev1.Span {
	t.Helper()
	spans := map[string]*tracev1.Span{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(data, &request)
		}
		if err != nil {
			t.Errorf("traces: %v", err)
		}
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				for _, s := range scope.Spans {
					spans[s.Name] = s
				}
			}
		}
	}))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	tracer, err := tracing.Open(t.Context(), "v1.2.3", slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	observe(tracer)
	if err := tracer.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return spans
}

// running is a task whose agent is at work.
func running(o session.Observer) session.Task {
	task := session.Task{ID: "task-1", SessionID: "s", Agent: "a", State: session.TaskQueued, CreatedAt: time.Now()}
	o.TaskAdmitted(task, session.Arrival{TraceParent: "not well-formed"})
	o.TaskStarted(task)
	o.AgentStarting(task)
	o.AgentStarted(task, session.Start{Temperature: session.StartHot})
	return task
}

func event(o session.Observer, t session.Task, e agent.Event) { o.Event(t, session.Event{Event: e}) }

func TestToolsOfSubagents(t *testing.T) {
	spans := sent(t, func(o session.Observer) {
		task := running(o)
		event(o, task, agent.Event{Type: agent.EventToolStart, Tool: "Task", ToolID: "1"})
		event(o, task, agent.Event{Type: agent.EventToolStart, Tool: "Bash", ToolID: "2", ParentID: "1"})
		event(o, task, agent.Event{Type: agent.EventToolEnd, Tool: "Bash", ToolID: "2", IsError: true})
		event(o, task, agent.Event{Type: agent.EventToolEnd, Tool: "Bash", ToolID: "of another process"})
		event(o, task, agent.Event{Type: agent.EventUsage, Usage: &agent.Usage{InputTokens: 3}})
		event(o, task, agent.Event{Type: agent.EventToolStart, Tool: "Read", ToolID: "3"}) // is cut off
		task.State = session.TaskAborted
		o.TaskEnded(task)
	})
	for child, parent := range map[string]string{"tool Bash": "tool Task", "tool Task": "turn", "tool Read": "turn", "turn": "task", "start": "task"} {
		if spans[child] == nil || string(spans[child].ParentSpanId) != string(spans[parent].GetSpanId()) {
			t.Errorf("%s is not below %s", child, parent)
		}
	}
	if s := spans["tool Bash"]; s.GetStatus().GetCode() != tracev1.Status_STATUS_CODE_ERROR {
		t.Errorf("the tool that failed: %v", s)
	}
	if s := spans["turn"]; len(s.GetEvents()) != 1 || s.GetEvents()[0].Name != "model call" {
		t.Errorf("the turn's events: %v", s.GetEvents())
	}
}

func TestTasksThatAreLeft(t *testing.T) {
	spans := sent(t, func(o session.Observer) { running(o) })
	root := spans["task"]
	if root == nil || spans["turn"] == nil {
		t.Fatalf("spans: %v", spans)
	}
	left := false
	for _, a := range root.Attributes {
		left = left || a.Key == "claude_runner.task.left" && a.Value.GetBoolValue()
	}
	if !left {
		t.Errorf("the task's attributes: %v", root.Attributes)
	}
}

func TestNobodyTakesTraces(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	server.Close()
	var log bytes.Buffer
	tracer, err := tracing.Open(t.Context(), "v1.2.3", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	running(tracer)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := tracer.Close(ctx); err == nil && !strings.Contains(log.String(), "level=WARN msg=tracing") {
		t.Errorf("nobody took the traces, and the log says %q", log.String())
	}
}
