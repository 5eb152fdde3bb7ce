package sqlite_test

import (
	"fmt"
	"testing"
	"time"

	"claude-runner/session"
)

// TestPruneManySessions: of every session that which is old goes, by age and by
// number, however many sessions there are and however few events each has.
func TestPruneManySessions(t *testing.T) {
	s := newStore(t)
	const sessions = 300
	for i := range sessions {
		id := fmt.Sprintf("s%d", i)
		task := create(t, s, "t"+id, id)
		recent := events(id, task.ID, 1, 7)
		for j := range recent {
			recent[j].Time = day.Add(time.Duration(i+j) * time.Second)
		}
		task.State, task.EndedAt = session.TaskSucceeded, day
		must(t, s, session.Change{Events: recent}, session.Change{End: &session.Ending{Task: task}})
	}
	// Event j of session i goes where i+j < 200, or where 5 come after it.
	want := int64(0)
	left := func(i int) int64 {
		n := int64(0)
		for j := range 7 {
			if i+j >= 200 && j >= 2 {
				n++
			}
		}
		return n
	}
	for i := range sessions {
		want += 7 - left(i)
	}
	if n, err := s.PruneEvents(t.Context(), day.Add(200*time.Second), 5); err != nil || n != want {
		t.Errorf("removed %d, %v; want %d", n, err, want)
	}
	for i := range sessions {
		id := fmt.Sprintf("s%d", i)
		got, err := s.Events(t.Context(), id, 0, 100)
		if err != nil || int64(len(got)) != left(i) {
			t.Errorf("session %s has %d events left, %v; want %d", id, len(got), err, left(i))
		}
		if seq, err := s.LastSeq(t.Context(), id); err != nil || seq != 7 {
			t.Errorf("session %s: last number %d, %v; want 7", id, seq, err)
		}
	}
	if n, err := s.PruneEvents(t.Context(), day.Add(200*time.Second), 5); err != nil || n != 0 {
		t.Errorf("a second time it removed %d, %v", n, err)
	}
}

// TestPruneKeepsOfUnfinished: between those of a task that has ended, the events
// of one that has not stay, and numbers go on behind the highest.
func TestPruneKeepsOfUnfinished(t *testing.T) {
	s := newStore(t)
	ended, waits := create(t, s, "ended", "s"), create(t, s, "waits", "s")
	ended.State, ended.EndedAt = session.TaskSucceeded, day
	must(t, s, session.Change{Events: events("s", ended.ID, 1, 2)}, session.Change{Events: events("s", waits.ID, 3, 1)},
		session.Change{Events: events("s", ended.ID, 4, 2)}, session.Change{End: &session.Ending{Task: ended}})
	if n, err := s.PruneEvents(t.Context(), day.Add(time.Hour), 100); err != nil || n != 4 {
		t.Errorf("removed %d, %v; want 4", n, err)
	}
	if got, err := s.Events(t.Context(), "s", 0, 100); err != nil || len(got) != 1 || got[0].Seq != 3 {
		t.Errorf("left: %+v, %v", got, err)
	}
	if seq, err := s.LastSeq(t.Context(), "s"); err != nil || seq != 5 {
		t.Errorf("last number %d, %v; want 5", seq, err)
	}
}

// TestPruneNothing: without an age and a number everything stays.
func TestPruneNothing(t *testing.T) {
	s := newStore(t)
	task := create(t, s, "t", "s")
	task.State, task.EndedAt = session.TaskSucceeded, day
	must(t, s, session.Change{Events: events("s", "t", 1, 5)}, session.Change{End: &session.Ending{Task: task}})
	if n, err := s.PruneEvents(t.Context(), time.Time{}, 1<<63-1); err != nil || n != 0 {
		t.Errorf("removed %d, %v", n, err)
	}
}
