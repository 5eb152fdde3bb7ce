package main

import (
	"cmp"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"claude-runner/agent/scripted"
	"claude-runner/backends/local"
)

// receiver takes traces over OTLP/HTTP.
type receiver struct {
	mu      sync.Mutex
	spans   []*tracev1.Span
	service string
	raw     []byte
}

// startReceiver starts one, where the program sends its traces to.
func startReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, req *http.Request) {
		data, err := io.ReadAll(req.Body)
		if err == nil {
			err = r.take(data)
		}
		if err != nil {
			t.Errorf("traces: %v", err)
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	return r
}

func (r *receiver) take(data []byte) error {
	var request collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(data, &request); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raw = append(r.raw, data...)
	for _, resource := range request.ResourceSpans {
		for _, a := range resource.Resource.Attributes {
			if a.Key == "service.name" {
				r.service = a.Value.GetStringValue()
			}
		}
		for _, scope := range resource.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
	return nil
}

// tree writes the spans below parent, each under the one that it belongs to, in
// the order of their begin.
func (r *receiver) tree(t *testing.T, parent []byte, indent string) string {
	t.Helper()
	var out strings.Builder
	slices.SortStableFunc(r.spans, func(a, b *tracev1.Span) int { return cmp.Compare(a.StartTimeUnixNano, b.StartTimeUnixNano) })
	for _, s := range r.spans {
		if !slices.Equal(s.ParentSpanId, parent) {
			continue
		}
		if s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("span %s ends before it begins", s.Name)
		}
		line := indent + s.Name
		if s.Status.GetCode() == tracev1.Status_STATUS_CODE_ERROR {
			line += ": " + s.Status.Message
		}
		out.WriteString(line + "\n" + r.tree(t, s.SpanId, indent+"  "))
	}
	return out.String()
}

// attributes returns those of the first span of a name, as text.
func (r *receiver) attributes(name string) map[string]string {
	out := map[string]string{}
	for _, s := range r.spans {
		if s.Name == name && len(out) == 0 {
			for _, a := range s.Attributes {
				out[a.Key] = a.Value.GetStringValue()
			}
		}
	}
	return out
}

// TestObserved runs tasks with the real CLI and looks at them as an operator
// does: by metrics and traces.
func TestObserved(t *testing.T) {
	traces := startReceiver(t)
	kind := local.Kind().Name
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	p := startProgram(t, loadConfig(t, testConfig, variables(t, kind, url)))
	t.Run("a task with a tool", func(t *testing.T) { p.chat(t, "staying").ask("run: echo a secret word") })
	t.Run("a task that fails", func(t *testing.T) { p.chat(t, "worker").send("loop") })
	traced := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	req, err := http.NewRequest(http.MethodPost, p.base+"/task", strings.NewReader(`{"sessionId": "traced", "message": "say: hello"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("traceparent", traced)
	resp, err := p.client.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("POST /task: %v %v", resp, err)
	}
	resp.Body.Close()

	metrics, err := p.do(t.Context(), http.MethodGet, "/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`claude_runner_tasks_total{agent="staying",backend="local",code="",state="succeeded"} 1`,
		`claude_runner_tasks_total{agent="worker",backend="local",code="max_turns",state="failed"} 1`,
		`claude_runner_events_total{type="tool_start"} 5`,
		`claude_runner_cost_dollars_total{agent="staying",model="claude-sonnet-4-6"} `,
		`claude_runner_build_info{`,
	} {
		if !strings.Contains(metrics.body, want) {
			t.Errorf("there is no %s", want)
		}
	}
	if err := p.stop(); err != nil { // sends the last spans
		t.Fatal(err)
	}
	traces.check(t)
	if t.Failed() {
		t.Log(metrics.body)
	}
}

func (r *receiver) check(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	want := `task
  submit
  queue
  start
  turn
    tool Bash
task: max_turns
  submit
  queue
  start
  turn: max_turns
    tool Bash
    tool Bash
    tool Bash
    tool Bash
`
	if got := r.tree(t, nil, ""); got != want {
		t.Errorf("spans of the first two tasks:\n%s", got)
	}
	caller := []byte("\xb7\xad\x6b\x71\x69\x20\x33\x31")
	if got := r.tree(t, caller, ""); got != "task\n  submit\n  queue\n  start\n  turn\n" {
		t.Errorf("spans of the task with a caller:\n%s", got)
	}
	root := r.attributes("task")
	if root["claude_runner.agent"] != "staying" || root["claude_runner.backend"] != "local" || root["claude_runner.task.state"] != "succeeded" ||
		root["gen_ai.response.model"] != "claude-sonnet-4-6" || root["session.id"] == "" || root["claude_runner.task.id"] == "" {
		t.Errorf("the task's attributes: %v", root)
	}
	if got := r.attributes("start")["claude_runner.start.temperature"]; got != "cold" {
		t.Errorf("the start was %q", got)
	}
	if r.service != "claude-runner" {
		t.Errorf("service %q", r.service)
	}
	for _, secret := range []string{"a secret word", modelKey, profileSecret} {
		if strings.Contains(string(r.raw), secret) {
			t.Errorf("the traces show %q", secret)
		}
	}
}
