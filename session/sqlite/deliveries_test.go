package sqlite_test

import (
	"database/sql"
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/session"
	"claude-runner/session/sqlite"
)

// endTold ends a task, with a delivery that is due at a moment.
func endTold(t testing.TB, s *sqlite.Store, id, url string, due time.Time) session.Delivery {
	t.Helper()
	task := create(t, s, id, "s1")
	task.State, task.EndedAt = session.TaskSucceeded, day
	d := session.Delivery{
		ID: "msg_" + id, TaskID: id, Type: session.EventTaskComplete, Webhook: agent.Webhook{URL: url, Secret: "whsec_never"},
		Payload: []byte(`{"type":"task_complete"}`), State: session.DeliveryPending, CreatedAt: day, NextAttempt: due,
	}
	must(t, s, session.Change{End: &session.Ending{Task: task, Delivery: &d}})
	return d
}

func TestDeliveryLife(t *testing.T) {
	s := newStore(t)
	d := endTold(t, s, "t1", "https://example.com/hooks?token=x", day)
	got, err := s.NextDelivery(t.Context(), session.DeliverySkip{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, got); diff != "" {
		t.Errorf("a new delivery reads back otherwise (-wrote +read):\n%s", diff)
	}
	d.Attempts, d.LastStatus, d.LastError, d.NextAttempt = 1, http.StatusBadGateway, "bad gateway", day.Add(time.Minute)
	d.Webhook.URL = "https://example.com/new"
	if err := s.UpdateDelivery(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if got, err = s.NextDelivery(t.Context(), session.DeliverySkip{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, got); diff != "" {
		t.Errorf("an attempted delivery reads back otherwise (-wrote +read):\n%s", diff)
	}

	d.State, d.Attempts, d.EndedAt, d.NextAttempt = session.DeliveryDelivered, 2, day.Add(time.Hour), time.Time{}
	if err := s.UpdateDelivery(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if got, err := s.NextDelivery(t.Context(), session.DeliverySkip{}); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("an ended delivery is still to be made: %+v, %v", got, err)
	}
	again := d
	again.State = session.DeliveryFailed
	if err := s.UpdateDelivery(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	all, err := s.Deliveries(t.Context(), "t1")
	if err != nil {
		t.Fatal(err)
	}
	d.Payload, d.Webhook.Secret = nil, ""
	if diff := cmp.Diff([]session.Delivery{d}, all); diff != "" {
		t.Errorf("an ended delivery reads back otherwise (-wrote +read):\n%s", diff)
	}
}

func TestNextDelivery(t *testing.T) {
	s := newStore(t)
	endTold(t, s, "t1", "https://b.example/1", day.Add(2*time.Second))
	endTold(t, s, "t2", "https://a.example/2", day.Add(time.Second))
	endTold(t, s, "t3", "https://b.example/3", day.Add(3*time.Second))
	for _, c := range []struct {
		skip session.DeliverySkip
		want string
	}{
		{session.DeliverySkip{}, "msg_t2"},
		{session.DeliverySkip{IDs: []string{"msg_t2"}}, "msg_t1"},
		{session.DeliverySkip{IDs: []string{"msg_t2", "msg_t1"}}, "msg_t3"},
		{session.DeliverySkip{Hosts: []string{"a.example"}}, "msg_t1"},
		{session.DeliverySkip{IDs: []string{"msg_t2"}, Hosts: []string{"b.example"}}, ""},
	} {
		d, err := s.NextDelivery(t.Context(), c.skip)
		if d.ID != c.want || (c.want == "") != errors.Is(err, session.ErrNotFound) {
			t.Errorf("without %+v: %q, %v; want %q", c.skip, d.ID, err, c.want)
		}
	}
}

// What a task and a delivery were given as secrets is forgotten with their ends.
func TestWebhookSecretsAreForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	s := open(t, path)
	task := aTask("t1", "s1")
	task.Request.Webhook = &agent.Webhook{URL: "https://example.com/", Secret: "whsec_never"}
	must(t, s, session.Change{Create: &session.Creation{Session: aSession("s1"), Task: task}})
	got, err := s.Task(t.Context(), "t1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(task, got); diff != "" {
		t.Errorf("a task with a webhook reads back otherwise (-wrote +read):\n%s", diff)
	}
	d := session.Delivery{ID: "msg_1", TaskID: "t1", State: session.DeliveryPending, Webhook: *task.Request.Webhook, Payload: []byte("{}")}
	task.State, task.EndedAt = session.TaskSucceeded, day
	must(t, s, session.Change{End: &session.Ending{Task: task, Delivery: &d}})
	if err := s.Apply(t.Context(), []session.Change{{End: &session.Ending{Task: task, Delivery: &session.Delivery{ID: "msg_2", TaskID: "t1"}}}}); !errors.Is(err, session.ErrEnded) {
		t.Errorf("a second end: %v", err)
	}
	d.State, d.EndedAt = session.DeliveryFailed, day
	if err := s.UpdateDelivery(t.Context(), d); err != nil {
		t.Fatal(err)
	}

	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var left int
	err = db.QueryRow(`SELECT (SELECT count(*) FROM tasks WHERE webhook <> '') + (SELECT count(*) FROM deliveries WHERE secret <> '' OR payload <> x'' OR id <> 'msg_1')`).Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d rows still have a secret or a payload: %v", left, err)
	}
}
