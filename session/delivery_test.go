package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"claude-runner/agent"
	"claude-runner/session"
	"claude-runner/session/webhook"
)

const (
	taskSecret    = "whsec_dGFzay1zZWNyZXQtdGFzay1zZWNyZXQtdGFzaw=="
	profileSecret = "whsec_cHJvZmlsZS1zZWNyZXQtcHJvZmlsZS1zZWNyZXQ="
)

// message is what a receiver got.
type message struct {
	header http.Header
	body   []byte

	Type      agent.EventType `json:"type"`
	Timestamp time.Time       `json:"timestamp"`
	Data      map[string]any  `json:"data"`
}

// newReceiver is a real one: it answers with one status after the other, the
// last one for ever, and gives what it got to the channel.
func newReceiver(t *testing.T, statuses ...int) (string, <-chan message) {
	t.Helper()
	got := make(chan message, 100)
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := message{header: r.Header.Clone()}
		m.body, _ = io.ReadAll(r.Body)
		if err := json.Unmarshal(m.body, &m); err != nil {
			t.Errorf("the receiver got %s: %v", m.body, err)
		}
		w.WriteHeader(statuses[min(n, len(statuses)-1)])
		n++
		got <- m
	}))
	t.Cleanup(s.Close)
	return s.URL, got
}

func receive(t *testing.T, from <-chan message) message {
	t.Helper()
	select {
	case m := <-from:
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("the receiver got nothing")
		return message{}
	}
}

func (m message) signedWith(t *testing.T, secret string) {
	t.Helper()
	hook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := hook.Verify(m.body, m.header); err != nil {
		t.Errorf("%s: %v", m.body, err)
	}
}

// clock is one that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) set(to time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = to
}

// newSender makes the deliveries of w's tasks until the test ends or stop is
// called.
func newSender(t *testing.T, w *world, now func() time.Time) (stop func()) {
	t.Helper()
	s := webhook.Open(webhook.Options{
		Queue: w.opts.Store, Wake: w.Undelivered(), AllowPrivate: true, Log: slog.New(slog.DiscardHandler), Now: now,
		Profile: func(name string) agent.Webhook { return w.Profiles().ByName[name].Webhook },
	})
	stop = func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func withWebhooks(o *session.Options, _ *agent.Profile) { o.PrivateWebhooks = true }

// submitTo queues a message whose end is told to url.
func (w *world) submitTo(sessionID, message, url string) session.Task {
	w.t.Helper()
	task, err := w.Submit(w.t.Context(), session.Submission{SessionID: sessionID, Request: session.Request{
		Message: message, Webhook: &agent.Webhook{URL: url, Secret: taskSecret},
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	return task
}

// attempted waits until the delivery of a task has had so many attempts.
func (w *world) attempted(t session.Task, n int) session.Delivery {
	w.t.Helper()
	var d session.Delivery
	eventually(w.t, "the delivery was attempted", func() bool {
		all, err := w.Deliveries(w.t.Context(), t.ID)
		if err != nil || len(all) != 1 {
			w.t.Fatalf("deliveries: %+v, %v; want one", all, err)
		}
		d = all[0]
		return d.Attempts >= n
	})
	return d
}

// A receiver that fails twice, a runner that is restarted in between, and in
// the end one message that is taken.
func TestWebhookOverFailuresAndRestarts(t *testing.T) {
	url, got := newReceiver(t, http.StatusInternalServerError, http.StatusInternalServerError, http.StatusOK)
	now := &clock{now: time.Now().Add(time.Minute)}
	w := newWorld(t, withWebhooks)
	stop := newSender(t, w, now.Now)
	task := w.submitTo("s", "echo hello", url+"/hook?token=x")
	ended := w.wait(task)
	first := receive(t, got)
	now.set(w.attempted(task, 1).NextAttempt)
	stop()

	stop = newSender(t, w, now.Now)
	receive(t, got)
	next := w.attempted(task, 2).NextAttempt
	stop()
	w.close()

	now.set(next)
	w = openWorld(t, w.dir, withWebhooks)
	newSender(t, w, now.Now)
	last := receive(t, got)
	d := w.attempted(task, 3)
	if d.State != session.DeliveryDelivered || d.Attempts != 3 || d.LastStatus != http.StatusOK || d.Target() != url+"/hook" {
		t.Errorf("delivery: %+v", d)
	}
	last.signedWith(t, taskSecret)
	if diff := cmp.Diff(string(first.body), string(last.body)); diff != "" || first.header.Get("webhook-id") != last.header.Get("webhook-id") {
		t.Errorf("the attempts differ: %s\n%v\n%v", diff, first.header, last.header)
	}
	events, err := w.opts.Store.Events(t.Context(), "s", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var told map[string]any
	if err := json.Unmarshal(events[len(events)-1].Data, &told); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(told, last.Data); diff != "" {
		t.Errorf("the message does not say what the event says (-event +message):\n%s", diff)
	}
	if last.Type != session.EventTaskComplete || last.Data["taskId"] != ended.ID || last.Data["answer"] != "hello" || last.Timestamp.IsZero() {
		t.Errorf("message: %s", last.body)
	}
}

func TestWebhookTellsEveryEnd(t *testing.T) {
	url, got := newReceiver(t, http.StatusOK)
	w := newWorld(t, func(o *session.Options, p *agent.Profile) {
		o.PrivateWebhooks = true
		p.Timeout = 3 * time.Second
	})
	newSender(t, w, time.Now)
	for name, c := range map[string]struct {
		message  string
		kind     agent.EventType
		code     any
		abortNow bool
	}{
		"succeeded": {message: "echo hi", kind: session.EventTaskComplete},
		"failed":    {message: "exit 3", kind: session.EventTaskError, code: string(agent.CodeAgentExited)},
		"timed out": {message: hold, kind: session.EventTaskError, code: string(session.CodeTimedOut)},
		"aborted":   {message: hold, kind: session.EventTaskError, code: string(session.CodeAborted), abortNow: true},
	} {
		t.Run(name, func(t *testing.T) {
			task := w.submitTo("s", c.message, url)
			if c.abortNow {
				if _, err := w.CancelTask(t.Context(), task.ID); err != nil {
					t.Fatal(err)
				}
			}
			w.wait(task)
			m := receive(t, got)
			m.signedWith(t, taskSecret)
			if m.Type != c.kind || m.Data["type"] != string(c.kind) || m.Data["code"] != c.code || m.Data["taskId"] != task.ID {
				t.Errorf("message: %s", m.body)
			}
			if stored, err := w.Task(t.Context(), task.ID); err != nil || stored.Request.Webhook != nil {
				t.Errorf("the task still has its webhook: %+v, %v", stored.Request, err)
			}
		})
	}
}

// The profile's webhook is told, but where a task brings its own.
func TestWebhookOfProfile(t *testing.T) {
	own, gotOwn := newReceiver(t, http.StatusOK)
	url, got := newReceiver(t, http.StatusOK)
	w := newWorld(t, func(o *session.Options, p *agent.Profile) {
		o.PrivateWebhooks = true
		p.Webhook = agent.Webhook{URL: url, Secret: profileSecret}
	})
	newSender(t, w, time.Now)
	w.wait(w.submitTo("s", "echo own", own))
	w.run("s", "echo profile")
	m := receive(t, got)
	m.signedWith(t, profileSecret)
	if m.Data["answer"] != "profile" {
		t.Errorf("the profile's webhook got %s", m.body)
	}
	receive(t, gotOwn).signedWith(t, taskSecret)
}

func TestNoWebhook(t *testing.T) {
	w := newWorld(t, nil)
	task := w.wait(w.submit("s", "echo hi"))
	if all, err := w.Deliveries(t.Context(), task.ID); err != nil || len(all) != 0 {
		t.Errorf("deliveries: %v, %v", all, err)
	}
}

// A task that waits keeps its webhook over a restart.
func TestWebhookOfQueuedTask(t *testing.T) {
	url, got := newReceiver(t, http.StatusOK)
	w := newWorld(t, withWebhooks)
	w.submit("s", hold)
	w.started("s")
	task := w.submitTo("s", "echo second", url)
	w.close()
	w = openWorld(t, w.dir, withWebhooks)
	newSender(t, w, time.Now)
	w.letGo("s")
	w.wait(task)
	receive(t, got).signedWith(t, taskSecret)
}

func TestDeliveriesOfDeletedSession(t *testing.T) {
	w := newWorld(t, withWebhooks)
	task := w.wait(w.submitTo("s", "echo hi", "http://127.0.0.1:1/"))
	if err := w.Reset(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	d, err := w.opts.Store.NextDelivery(t.Context(), session.DeliverySkip{})
	if err != nil || d.TaskID != task.ID || len(d.Payload) == 0 {
		t.Fatalf("a reset session's delivery: %+v, %v", d, err)
	}
	if err := w.Delete(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if d, err := w.opts.Store.NextDelivery(t.Context(), session.DeliverySkip{}); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("a deleted session's delivery: %+v, %v", d, err)
	}
}

func TestWebhookThatWillNotDo(t *testing.T) {
	w := newWorld(t, nil)
	for name, c := range map[string]struct {
		hook  agent.Webhook
		field string
		text  string
	}{
		"no URL":          {agent.Webhook{Secret: taskSecret}, "webhook.url", "is missing"},
		"another scheme":  {agent.Webhook{URL: "ftp://example.com", Secret: taskSecret}, "webhook.url", "no URL of a server"},
		"private address": {agent.Webhook{URL: "http://10.0.0.1/", Secret: taskSecret}, "webhook.url", "private network"},
		"no secret":       {agent.Webhook{URL: "https://example.com"}, "webhook.secret", "is missing"},
		"short secret":    {agent.Webhook{URL: "https://example.com", Secret: "whsec_c2hvcnQ="}, "webhook.secret", "has 5 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.Submit(t.Context(), session.Submission{SessionID: "s", Request: session.Request{Message: "true", Webhook: &c.hook}})
			e, ok := errors.AsType[*session.Error](err)
			if !ok || e.Code != session.CodeInvalid || e.Field != c.field || !strings.HasPrefix(e.Message, c.field+" ") || !strings.Contains(e.Message, c.text) {
				t.Errorf("%+v, want %s of %s: %s", err, session.CodeInvalid, c.field, c.text)
			}
		})
	}
}

// Another webhook is another request, though its secret is shown nowhere.
func TestWebhookAndIdempotencyKey(t *testing.T) {
	w := newWorld(t, withWebhooks)
	submit := func(secret agent.Secret) (session.Task, error) {
		return w.Submit(t.Context(), session.Submission{SessionID: "s", Key: "k", Request: session.Request{
			Message: "true", Webhook: &agent.Webhook{URL: "http://127.0.0.1:1/", Secret: secret},
		}})
	}
	first, err := submit(taskSecret)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := submit(taskSecret); err != nil || again.ID != first.ID {
		t.Errorf("the same request: %v, %v", again.ID, err)
	}
	if _, err := submit(profileSecret); session.CodeOf(err) != session.CodeKeyReused {
		t.Errorf("another secret: %v", err)
	}
	w.wait(first)
}
