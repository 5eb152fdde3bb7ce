package session_test

import (
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"claude-runner/agent"
	"claude-runner/session"
)

// wall is a wall clock that a test sets.
type wall struct{ ahead atomic.Int64 }

func (c *wall) now() time.Time       { return time.Now().Round(0).Add(time.Duration(c.ahead.Load())) }
func (c *wall) set(by time.Duration) { c.ahead.Store(int64(by)) }

// A clock that jumps while tasks run and wait: nothing ends sooner or later for
// it, and the order of what is told and listed stays.
func TestClockJumps(t *testing.T) {
	for name, jump := range map[string]time.Duration{"forward": time.Hour, "back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			clock := &wall{}
			w := newWorld(t, func(o *session.Options, p *agent.Profile) { o.Now, p.Timeout = clock.now, 20*time.Second })
			running, waiting := w.submit("s", hold), w.submit("s", "echo works")
			w.started("s")
			clock.set(jump)
			after := w.submit("s", "echo after")
			w.letGo("s")
			for _, task := range []session.Task{running, waiting, after} {
				got := w.wait(task)
				if got.State != session.TaskSucceeded {
					t.Errorf("%s: %+v", got.State, got.Result.Error)
				}
				if got.StartedAt.Before(got.CreatedAt) || got.EndedAt.Before(got.StartedAt) {
					t.Errorf("created %v, started %v, ended %v", got.CreatedAt, got.StartedAt, got.EndedAt)
				}
				if d := got.Result.Duration; d <= 0 || d > 15*time.Second {
					t.Errorf("it took %v", d)
				}
			}
			listed, _, err := w.Tasks(t.Context(), session.TaskFilter{})
			if err != nil || len(listed) != 3 || listed[0].ID != after.ID || listed[2].ID != running.ID || after.ID <= waiting.ID {
				t.Errorf("the newest first: %+v, %v", listed, err)
			}
			w.checkTimes("s", jump)
		})
	}
}

// checkTimes holds that the events of a session are numbered as they happened,
// and have the time that the clock showed.
func (w *world) checkTimes(id string, jump time.Duration) {
	w.t.Helper()
	records, err := w.EventsAfter(w.t.Context(), id, 0, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	for i, r := range records {
		var e struct{ Time time.Time }
		if err := json.Unmarshal(r.Data, &e); err != nil || r.Seq != int64(i+1) {
			w.t.Errorf("event %d: %s, %v", i+1, r.Data, err)
		}
		if off := time.Until(e.Time); off > max(0, jump)+time.Second || off < min(0, jump)-30*time.Second {
			w.t.Errorf("an event of %v: %s", e.Time, r.Data)
		}
	}
}

// A task's time runs out whatever the clock shows, also over a restart.
func TestTimeoutOfAClockSetBack(t *testing.T) {
	clock := &wall{}
	change := func(o *session.Options, p *agent.Profile) { o.Now, p.Timeout = clock.now, 2*time.Second }
	dir := sharedDir(t)
	w := openWorld(t, dir, change)
	task := w.submit("s", hold)
	w.started("s")
	clock.set(-time.Hour)
	if got := w.wait(task); got.State != session.TaskTimedOut {
		t.Errorf("%s: %+v", got.State, got.Result.Error)
	}

	task = w.submit("s", "echo before; while :; do sleep 0.02; done")
	eventually(t, "it runs", func() bool {
		got, err := w.Task(t.Context(), task.ID)
		return err == nil && got.State == session.TaskRunning
	})
	w.close()
	clock.set(-2 * time.Hour)
	w = openWorld(t, dir, change)
	if got := w.wait(task); got.State != session.TaskTimedOut || got.Result.Duration > 15*time.Second {
		t.Errorf("after a restart: %s after %v: %+v", got.State, got.Result.Duration, got.Result.Error)
	}
}
