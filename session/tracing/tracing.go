// Package tracing tells of tasks as OpenTelemetry traces, over OTLP/HTTP. A
// span holds ids, names, numbers and codes: never a message, an environment, a
// tool's input or an answer.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Enabled reports whether the environment asks for traces: it names where they
// go, and nothing there turns them off.
func Enabled() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// Tracer is a session.Observer. A task is one trace, or a part of its caller's:
//
//	task
//	├── submit
//	├── queue
//	├── start      until the agent's first event
//	└── turn       until the task's end; an event in it for each model call
//	    └── tool   below it those of a subagent
//
// A task that a runner leaves to the next one is a trace in each.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	parent   propagation.TraceContext

	mu    sync.Mutex
	tasks map[string]*task // those without an end, by id
}

// Open starts a Tracer, which sends where the standard variables
// (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME,
// OTEL_TRACES_SAMPLER and so on) say. Close ends it. What can not be sent is
// logged and lost.
func Open(ctx context.Context, version string, log *slog.Logger) (*Tracer, error) {
	// Only this package uses OpenTelemetry, which has one handler for all its errors.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("tracing", "error", err) }))
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("open trace exporter: %w", err)
	}
	res, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "claude-runner"), attribute.String("service.version", version)),
		resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithFromEnv(), // goes over what stands above
	)
	if err != nil {
		return nil, fmt.Errorf("read OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
	return &Tracer{
		provider: provider, tasks: map[string]*task{},
		tracer: provider.Tracer("claude-runner/session", trace.WithInstrumentationVersion(version)),
	}, nil
}

// Close ends the spans of tasks that are left to the next process, and sends
// what is not sent, until ctx ends. The Manager is closed before.
func (t *Tracer) Close(ctx context.Context) error {
	t.mu.Lock()
	for id, task := range t.tasks {
		task.root.SetAttributes(attribute.Bool("claude_runner.task.left", true))
		task.end()
		delete(t.tasks, id)
	}
	t.mu.Unlock()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}
