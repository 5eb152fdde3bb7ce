package session_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/backends/backendtest"
	"claude-runner/session"
)

// witness writes down what an Observer is told, by session.
type witness struct {
	mu   sync.Mutex
	told map[string][]string
}

func (w *witness) note(sessionID, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told == nil {
		w.told = map[string][]string{}
	}
	w.told[sessionID] = append(w.told[sessionID], fmt.Sprintf(format, args...))
}

// of returns what was told of a session since it was last asked.
func (w *witness) of(sessionID string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer delete(w.told, sessionID)
	return strings.Join(w.told[sessionID], "\n")
}

// last returns what was told last of a session.
func (w *witness) last(sessionID string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if told := w.told[sessionID]; len(told) > 0 {
		return told[len(told)-1]
	}
	return ""
}

func (w *witness) TaskRefused(code session.Code) { w.note("", "refused %s", code) }

func (w *witness) TaskAdmitted(t session.Task, a session.Arrival) {
	w.note(t.SessionID, "admitted %s %+v", t.State, a)
}

func (w *witness) TaskStarted(t session.Task) { w.note(t.SessionID, "started %s", t.State) }

func (w *witness) AgentStarting(t session.Task) { w.note(t.SessionID, "agent starting") }

func (w *witness) AgentStarted(t session.Task, s session.Start) {
	if s.Took <= 0 {
		w.note(t.SessionID, "in no time: %v", s.Took)
	}
	w.note(t.SessionID, "agent started %s on %s", s.Temperature, t.Backend)
}

func (w *witness) Event(t session.Task, e session.Event) { w.note(t.SessionID, "event %s", e.Type) }

func (w *witness) TaskEnded(t session.Task) {
	w.note(t.SessionID, "ended %s $%v", t.State, t.Result.CostUSD)
}

func watched(o *witness, changes ...func(*agent.Profile)) func(*session.Options, *agent.Profile) {
	return func(opts *session.Options, p *agent.Profile) {
		opts.Observers = []session.Observer{o}
		for _, change := range changes {
			change(p)
		}
	}
}

func lines(l ...string) string { return strings.Join(l, "\n") }

func TestObserverIsToldInOrder(t *testing.T) {
	o := &witness{}
	w := newWorld(t, watched(o, func(p *agent.Profile) { p.IdleTimeout = time.Minute }))
	check := func(sessionID string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, strings.Split(o.of(sessionID), "\n")); diff != "" {
			t.Errorf("told of %q (-want +got):\n%s", sessionID, diff)
		}
	}
	begin := []string{
		"admitted queued {TraceParent: Restored:false}", "event task_queued",
		"event task_start", "started starting", "agent starting",
	}

	w.run("s", "echo hello")
	check("s", slices.Concat(begin, []string{
		"agent started cold on local", "event init", "event text", "event task_complete", "ended succeeded $0.5"})...)
	w.run("s", ":")
	check("s", slices.Concat(begin, []string{
		"agent started hot on local", "event init", "event task_complete", "ended succeeded $0.5"})...)

	w.wait(w.submit("fails", "exit 3"))
	check("fails", slices.Concat(begin, []string{
		"agent started cold on local", "event init", "event task_error", "ended failed $0.5"})...)

	held := w.submit("held", hold)
	eventually(t, "the held task's turn has begun", func() bool { return o.last("held") == "event init" })
	o.of("held")
	defer func() { // it would go on for the next process
		if _, err := w.CancelTask(context.Background(), held.ID); err != nil {
			t.Error(err)
		}
	}()
	waiting := w.submit("held", "echo")
	if _, err := w.CancelTask(t.Context(), waiting.ID); err != nil {
		t.Fatal(err)
	}
	check("held", begin[0], begin[1], "event abort", "ended aborted $0")

	if _, err := w.Submit(t.Context(), session.Submission{SessionID: "s"}); err == nil {
		t.Error("a task without a message was taken")
	}
	check("", "refused invalid_request")

	const caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	task, err := w.Submit(t.Context(), session.Submission{SessionID: "traced", Request: session.Request{Message: ":"}, TraceParent: caller})
	if err != nil {
		t.Fatal(err)
	}
	w.wait(task)
	if got := o.of("traced"); !strings.HasPrefix(got, "admitted queued {TraceParent:"+caller+" ") {
		t.Errorf("told:\n%s", got)
	}
}

func TestObserverOfNoBackend(t *testing.T) {
	o := &witness{}
	w := newWorld(t, watched(o, func(p *agent.Profile) { p.Backend = []string{"broken", "local"} }))
	if got := w.BackendHealth(); len(got) != 0 {
		t.Errorf("before the first task: %+v", got)
	}
	w.run("s", "echo")
	if got := w.BackendHealth(); got["broken"].Healthy || !got["local"].Healthy || got["broken"].At.IsZero() {
		t.Errorf("health: %+v", got)
	}
	if got := o.of("s"); !strings.Contains(got, "agent starting\nagent started cold on local\n") {
		t.Errorf("told:\n%s", got)
	}
}

func TestAskBackends(t *testing.T) {
	w := newWorld(t, watched(&witness{}, func(p *agent.Profile) { p.Backend = []string{"broken", "local"} }))
	w.AskBackends(t.Context())
	got := w.BackendHealth()
	if len(got) != 1 || got["broken"].Healthy || got["broken"].At.IsZero() {
		t.Errorf("asked: %+v, want the agents' first alone", got)
	}
	w.run("s", "echo") // on the second
	if got := w.BackendHealth(); !got["local"].Healthy {
		t.Errorf("behind a task: %+v", got)
	}
}

func TestObserverOfTheNextProcess(t *testing.T) {
	dir := backendtest.SharedDir(t)
	before, after := &witness{}, &witness{}
	first := openWorld(t, dir, watched(before))
	running, queued := first.submit("s", hold), first.submit("s", "echo queued")
	first.started("s")
	eventually(t, "the agent's first event is told", func() bool { return strings.Contains(before.of("s"), "event init") })
	first.close()
	if got := before.of("s"); strings.Contains(got, "ended") {
		t.Errorf("the first process told of an end:\n%s", got)
	}

	second := openWorld(t, dir, watched(after))
	second.letGo("s")
	second.wait(running)
	second.wait(queued)
	want := lines(
		"admitted running {TraceParent: Restored:true}", "admitted queued {TraceParent: Restored:true}",
		"agent starting", "agent started recovered on local", "event task_complete", "ended succeeded $0.5",
		"event task_start", "started starting", "agent starting", "agent started cold on local",
		"event init", "event text", "event task_complete", "ended succeeded $0.5",
	)
	if diff := cmp.Diff(want, after.of("s")); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}
