package api_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"claude-runner/agent"
	"claude-runner/api/apitest"
	"claude-runner/session/webhook"
)

const webhookSecret = "whsec_bmV2ZXItc2hvdy1tZS1uZXZlci1zaG93LW1l"

// withWebhook is the body of POST /task with a webhook.
func withWebhook(sessionID, message, url string) string {
	var body map[string]any
	if err := json.Unmarshal([]byte(task(sessionID, message)), &body); err != nil {
		panic(err)
	}
	body["webhook"] = map[string]string{"url": url, "secret": webhookSecret}
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func TestWebhook(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.session.PrivateWebhooks = true })
	sender := webhook.Open(webhook.Options{
		Queue: w.store, Wake: w.manager.Undelivered(), AllowPrivate: true,
		Log:     slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Profile: func(string) agent.Webhook { return agent.Webhook{} },
	})
	t.Cleanup(func() {
		if err := sender.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	got := make(chan error, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuses" {
			rw.WriteHeader(http.StatusGone)
			return
		}
		body, _ := io.ReadAll(r.Body)
		apitest.CheckSchema(t, "WebhookMessage", body)
		hook, err := standardwebhooks.NewWebhook(webhookSecret)
		if err == nil {
			err = hook.Verify(body, r.Header)
		}
		got <- err
	}))
	t.Cleanup(receiver.Close)

	done := w.do(http.MethodPost, "/task", withWebhook("s", "echo hi", receiver.URL+"/takes?token=token-never-show-me"))
	if err := <-got; err != nil || done.status != http.StatusOK {
		t.Fatalf("%d %s; the receiver: %v", done.status, done.body, err)
	}
	delivered := w.delivery(done, "delivered")
	if delivered["url"] != receiver.URL+"/takes" || delivered["type"] != "task_complete" || delivered["attempts"] != 1.0 ||
		delivered["lastStatus"] != 200.0 || delivered["deliveredAt"] == nil || delivered["nextAttempt"] != nil {
		t.Errorf("delivery: %v", delivered)
	}
	failed := w.delivery(w.do(http.MethodPost, "/task", withWebhook("s2", "exit 3", receiver.URL+"/refuses")), "failed")
	if failed["type"] != "task_error" || failed["lastStatus"] != 410.0 || failed["failedAt"] == nil || failed["lastError"] == nil {
		t.Errorf("delivery: %v", failed)
	}
	pending := w.delivery(w.do(http.MethodPost, "/task", withWebhook("s2", "echo hi", "http://127.0.0.1:1/")), "pending")
	if pending["nextAttempt"] == nil || !strings.Contains(pending["lastError"].(string), "refused") {
		t.Errorf("delivery: %v", pending)
	}

	shown := done.body + w.logs.String()
	for _, path := range []string{"/tasks", "/task/" + done.object(t)["taskId"].(string), "/session/s", "/sessions", "/agents"} {
		shown += w.do(http.MethodGet, path, "").body
	}
	for _, secret := range []string{strings.TrimPrefix(webhookSecret, "whsec_"), "token-never-show-me"} {
		if strings.Contains(shown, secret) {
			t.Errorf("%s is shown", secret)
		}
	}
}

// delivery returns the one delivery of the task in the answer, once it has
// been attempted and is in that state.
func (w *world) delivery(a answer, state string) map[string]any {
	w.t.Helper()
	id, _ := a.object(w.t)["taskId"].(string)
	var d map[string]any
	eventually(w.t, "the delivery is "+state, func() bool {
		all, _ := w.get("/task/" + id)["deliveries"].([]any)
		if len(all) != 1 {
			w.t.Fatalf("task %s has the deliveries %v, want one", id, all)
		}
		d = all[0].(map[string]any)
		return d["state"] == state && d["attempts"] != 0.0
	})
	if at, err := time.Parse(time.RFC3339Nano, d["createdAt"].(string)); err != nil || at.IsZero() {
		w.t.Errorf("createdAt: %v", d["createdAt"])
	}
	return d
}
