package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"claude-runner/agent/scripted"
	"claude-runner/backends/local"
)

const (
	hookSecretOfProfile = "whsec_c2VjcmV0LW9mLXRoZS1wcm9maWxlcy1ob29r"
	hookSecretOfTask    = "whsec_c2VjcmV0LW9mLXRoZS10YXNrcy1vd24taG9vaw=="
)

// delivery is one as GET /task/:taskId shows it.
type delivery struct {
	ID, URL, Type, State, LastError string
	Attempts, LastStatus            int
}

// A receiver that is down at first, and a runner that is restarted before it
// tries again.
func TestWebhooksOverRestart(t *testing.T) {
	type message struct {
		path, id string
		refused  bool
		body     []byte
		Data     struct{ TaskID, Answer string }
	}
	got := make(chan message, 10)
	up := make(chan struct{})
	secrets := map[string]string{"/profile": hookSecretOfProfile, "/task": hookSecretOfTask}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := message{path: r.URL.Path, id: r.Header.Get("webhook-id")}
		m.body, _ = io.ReadAll(r.Body)
		hook, err := standardwebhooks.NewWebhook(secrets[m.path])
		if err == nil {
			err = hook.Verify(m.body, r.Header)
		}
		if err != nil {
			t.Errorf("%s: %v", m.path, err)
		}
		if err := json.Unmarshal(m.body, &m); err != nil {
			t.Errorf("%s got %s: %v", m.path, m.body, err)
		}
		select {
		case <-up:
		default:
			m.refused = true
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		got <- m
	}))
	t.Cleanup(receiver.Close)

	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	cfg := loadConfig(t, testConfig, with(variables(t, local.Kind().Name, url),
		"CLAUDE_RUNNER_WEBHOOKS__ALLOW_PRIVATE", "true",
		"CLAUDE_RUNNER_AGENTS__WORKER__WEBHOOK__URL", receiver.URL+"/profile",
		"CLAUDE_RUNNER_AGENTS__WORKER__WEBHOOK__SECRET", hookSecretOfProfile))
	p := startProgram(t, cfg)
	requireAgent(t, p, local.Kind().Name)
	tasks := map[string]string{}
	tasks["/profile"] = p.chat(t, "").ask("say: hello").TaskID
	tasks["/task"] = p.chat(t, "").with("webhook", map[string]string{"url": receiver.URL + "/task?token=x", "secret": hookSecretOfTask}).ask("say: hello").TaskID
	next := func() message {
		for {
			if m := <-got; m.Data.TaskID == tasks[m.path] { // not of the task that requireAgent ran
				return m
			}
		}
	}
	ids := map[string]string{}
	for range tasks {
		m := next()
		ids[m.path] = m.id
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	close(up)
	q := startProgram(t, cfg)
	for path, task := range tasks {
		var view struct{ Deliveries []delivery }
		eventually(t, 30*time.Second, path+" is delivered", func() bool {
			q.get(t, "/task/"+task, &view)
			return len(view.Deliveries) == 1 && view.Deliveries[0].State == "delivered"
		})
		d := view.Deliveries[0]
		if d.ID != ids[path] || d.URL != receiver.URL+path || d.Type != "task_complete" || d.Attempts != 2 || d.LastStatus != http.StatusOK {
			t.Errorf("%s: %+v", path, d)
		}
	}
	for range tasks {
		if m := next(); m.refused || m.id != ids[m.path] || m.Data.Answer != "hello" {
			t.Errorf("%s got %s, refused: %v", m.path, m.body, m.refused)
		}
	}
	for _, secret := range []string{hookSecretOfProfile, hookSecretOfTask} {
		if strings.Contains(p.logs.String()+q.logs.String(), secret[len("whsec_"):]) {
			t.Errorf("%s is in the log", secret)
		}
	}
}
