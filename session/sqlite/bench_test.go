package sqlite_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"claude-runner/agent"
	"claude-runner/session"
)

// benchTasks is how many tasks take each of their three steps in one transaction.
const benchTasks = 4

// BenchmarkTasks writes whole tasks as the journal does: what is submitted, what
// starts and what ends together, each of another task. Half of the tasks begin a
// session, the others go on with one. Sessions are in no order.
func BenchmarkTasks(b *testing.B) {
	s := newStore(b)
	var started, submitted []*benchTask
	before := processorTime(b)
	b.ResetTimer()
	for n := 0; n < b.N || len(started)+len(submitted) > 0; n += benchTasks {
		var changes []session.Change
		for _, t := range started {
			changes = append(changes, t.end()...)
		}
		for _, t := range submitted {
			changes = append(changes, t.start()...)
		}
		started, submitted = submitted, nil
		for i := n; i < min(n+benchTasks, b.N); i++ {
			t := newBenchTask(i)
			submitted, changes = append(submitted, t), append(changes, t.submit())
		}
		must(b, s, changes...)
	}
	b.StopTimer()
	b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchTask is a task on its way through the store.
type benchTask struct {
	session session.Session
	task    session.Task
	seq     int64
}

func newBenchTask(i int) *benchTask {
	now := day.Add(time.Duration(i) * time.Millisecond)
	// Tasks i and i+2*benchTasks share a session, which the first one makes.
	group, first := i/(4*benchTasks), i/(2*benchTasks)%2 == 0
	t := &benchTask{session: session.Session{
		ID: fmt.Sprintf("%08x-%d", uint32(group)*2654435761, i%(2*benchTasks)), Agent: "support", CreatedAt: now, UpdatedAt: now,
	}}
	if !first {
		t.seq = 6
	}
	t.task = session.Task{
		ID: uuid.Must(uuid.NewV7()).String(), SessionID: t.session.ID, Agent: "support", State: session.TaskQueued, CreatedAt: now,
		Request: session.Request{Message: "Look at ticket 4711 and say what is to be done.", Context: "web"},
	}
	return t
}

func (t *benchTask) event(kind string, step int64) session.Record {
	t.seq++
	return session.Record{
		SessionID: t.session.ID, TaskID: t.task.ID, Seq: t.seq, Step: step, Time: t.task.CreatedAt,
		Data: fmt.Appendf(nil, `{"type":%q,"sessionId":%q,"taskId":%q,"seq":%d,"time":"2026-03-01T12:00:00.123456789Z","text":%q}`,
			kind, t.session.ID, t.task.ID, t.seq, strings.Repeat("word ", 10)),
	}
}

func (t *benchTask) submit() session.Change {
	return session.Change{
		Create: &session.Creation{Session: t.session, Task: t.task},
		Audit: &session.AuditEntry{
			At: t.task.CreatedAt, RequestID: t.task.ID, Remote: "127.0.0.1", Action: "submit",
			Session: t.session.ID, Task: t.task.ID, Agent: "support", Status: 202,
		},
		Events: []session.Record{t.event("task_queued", 0)},
	}
}

func (t *benchTask) start() []session.Change {
	starting := t.task
	starting.State, starting.StartedAt = session.TaskStarting, t.task.CreatedAt.Add(time.Millisecond)
	running := starting
	running.State, running.Backend, running.Sandbox = session.TaskRunning, "local", "ready-"+t.task.ID
	t.task = running
	return []session.Change{{Update: &starting, Events: []session.Record{t.event("task_start", 0)}}, {Update: &running}}
}

func (t *benchTask) end() []session.Change {
	ended := t.task
	ended.State, ended.EndedAt = session.TaskSucceeded, t.task.StartedAt.Add(time.Second)
	ended.Result = session.Result{
		Output: json.RawMessage(`{"action":"resolve"}`), Text: "done", Model: "model", CostUSD: 0.01, Duration: time.Second,
		Usage: agent.Usage{InputTokens: 70, OutputTokens: 7},
	}
	return []session.Change{
		{Events: []session.Record{t.event("init", 2)}},
		{Events: []session.Record{t.event("text", 4)}},
		{Events: []session.Record{t.event("usage", 6)}},
		{End: &session.Ending{Task: ended, AgentID: "conversation", Turns: 1}, Events: []session.Record{t.event("task_end", 0)}},
	}
}
