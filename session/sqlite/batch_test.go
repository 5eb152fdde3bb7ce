package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"claude-runner/session"
)

// events makes a task's events, with numbers from first and steps.
func events(sessionID, taskID string, first int64, n int) []session.Record {
	out := make([]session.Record, n)
	for i := range out {
		seq := first + int64(i)
		out[i] = session.Record{SessionID: sessionID, TaskID: taskID, Seq: seq, Step: seq, Time: day, Data: fmt.Appendf(nil, `{"seq":%d}`, seq)}
	}
	return out
}

// TestBatch: changes of one transaction come to the same as one after the other.
func TestBatch(t *testing.T) {
	s := newStore(t)
	a, b := aTask("a", "s1"), aTask("b", "s2")
	starting, running := a, a
	starting.State, running.State = session.TaskStarting, session.TaskRunning
	running.StartedAt, running.TurnFrom, running.Backend = day.Add(time.Second), 5, "local"
	must(t, s,
		session.Change{Create: &session.Creation{Session: aSession("s1"), Task: a}, Events: events("s1", "a", 1, 1)},
		session.Change{Create: &session.Creation{Session: aSession("s2"), Task: b}, Events: events("s2", "b", 1, 9)},
		session.Change{Update: &starting, Events: events("s1", "a", 2, 3)},
		session.Change{Update: &running, Events: events("s1", "a", 5, 4)},
		session.Change{Events: events("gone", "c", 1, 2)},
	)
	if got, err := s.Task(t.Context(), "a"); err != nil || got.State != session.TaskRunning || got.TurnFrom != 5 || got.Backend != "local" {
		t.Errorf("%+v, %v", got, err)
	}
	for id, want := range map[string]int64{"s1": 8, "s2": 9, "gone": 0} {
		stored, err := s.Events(t.Context(), id, 0, 100)
		if err != nil || int64(len(stored)) != want {
			t.Errorf("session %s has %d events, want %d: %v", id, len(stored), want, err)
		}
		if last, err := s.LastSeq(t.Context(), id); err != nil || last != want {
			t.Errorf("session %s: last event %d, want %d: %v", id, last, want, err)
		}
	}
	// A task that starts counts its steps anew, those of its batch too.
	if step, err := s.LastStep(t.Context(), "a"); err != nil || step != 8 {
		t.Errorf("last step %d, %v", step, err)
	}
	must(t, s, session.Change{Events: events("s1", "a", 9, 1)}, session.Change{Update: &starting})
	if step, err := s.LastStep(t.Context(), "a"); err != nil || step != 0 {
		t.Errorf("last step %d after a new start, %v", step, err)
	}
	// So it does where more of the same batch says how it went on.
	must(t, s, session.Change{Events: events("s1", "a", 10, 2)})
	must(t, s, session.Change{Update: &starting, Events: events("s1", "a", 12, 1)}, session.Change{Update: &running, Events: events("s1", "a", 13, 1)})
	stored, err := s.Events(t.Context(), "s1", 9, 100)
	if err != nil || len(stored) != 4 {
		t.Fatalf("%d events, %v; want 4", len(stored), err)
	}
	for i, want := range []int64{0, 0, 12, 13} {
		if stored[i].Step != want {
			t.Errorf("event %d is of step %d, want %d", stored[i].Seq, stored[i].Step, want)
		}
	}
}

// TestBatchAfterTheEnd: of several states of a task that has ended, one is named
// as what can't be written, and nothing is.
func TestBatchAfterTheEnd(t *testing.T) {
	s := newStore(t)
	task := create(t, s, "a", "s1")
	ended := task
	ended.State, ended.EndedAt = session.TaskSucceeded, day
	must(t, s, session.Change{End: &session.Ending{Task: ended}})
	err := s.Apply(t.Context(), []session.Change{
		{Events: events("s1", "a", 1, 1)}, {Update: &task}, {Update: &task, Events: events("s1", "a", 2, 1)},
	})
	bad, ok := errors.AsType[*session.ChangeError](err)
	if !ok || bad.Index != 2 || !errors.Is(err, session.ErrEnded) {
		t.Errorf("%v", err)
	}
	if last, err := s.LastSeq(t.Context(), "s1"); err != nil || last != 0 {
		t.Errorf("last event %d, %v", last, err)
	}
}

// TestCancelled: who does not wait for the connection gets his context's error,
// and the next one writes.
func TestCancelled(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	task := aTask("a", "s1")
	change := session.Change{Create: &session.Creation{Session: aSession("s1"), Task: task}}
	if err := s.Apply(ctx, []session.Change{change}); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: %v", err)
	}
	if err := s.DeleteSession(ctx, "s1"); !errors.Is(err, context.Canceled) {
		t.Errorf("DeleteSession: %v", err)
	}
	must(t, s, change)
}
