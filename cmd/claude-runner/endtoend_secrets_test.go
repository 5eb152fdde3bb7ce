package main

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testSecrets looks for the secrets that a task has, the model's key among
// them, while it runs: in the arguments of every process of this host, in all
// that can be asked of the server, and in the errors of tasks that fail. The
// log is looked at when all cases have run.
func testSecrets(t *testing.T, d *deployment) {
	secrets := []string{modelKey, profileSecret, acmeToken, taskSecret}
	env := map[string]string{"TASK_TOKEN": taskSecret}
	c := d.chat(t, "").with("env", env)
	s := c.stream("")
	held := c.held("")

	shown := map[string]string{}
	for _, secret := range secrets {
		shown["the arguments of processes, for "+secret[:9]] = strings.Join(processes(t, secret), "\n")
	}
	var page struct{ Tasks []task }
	d.get(t, "/tasks?sessionId="+c.id, &page)
	paths := []string{"/health", "/agents", "/backends", "/sessions", "/tasks", "/session/" + c.id, "/task/" + page.Tasks[0].TaskID}
	look := func(when string) {
		for _, path := range paths {
			shown[when+": GET "+path] = c.call(http.MethodGet, path).body
		}
	}
	look("while the task runs")
	c.letGo()
	shown["the answer"] = (<-held).body
	s.until("task_complete")
	shown["the stream"] = strings.Join(raw(s.seen), "\n")
	look("afterwards")

	broken := c.other("broken")
	shown["a model's error"] = broken.send("fail 401").body
	shown["a killed agent"] = broken.send(`run: echo "$TASK_TOKEN $ANTHROPIC_API_KEY" >&2; kill -9 $PPID`).body
	shown["a refusal"] = broken.with("env", map[string]string{"ANTHROPIC_API_KEY": taskSecret}).send("say: hi").body
	shown["another refusal"] = broken.with("env", map[string]any{"TASK_TOKEN": []string{taskSecret}}).send("say: hi").body

	for what, text := range shown {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows the secret %s:\n%s", what, secret, text)
			}
		}
	}
}

// testToldSecrets lets a tool and the model say secrets, in pieces, and looks
// for them in what is told of it and in the database.
func testToldSecrets(t *testing.T, d *deployment) {
	c := d.chat(t, "").with("env", map[string]string{"TASK_TOKEN": taskSecret})
	s := c.stream("")
	r := c.ask("tell secrets")
	s.until("task_complete")
	if want := "They are [secret] and [secret]\n[secret]"; r.Text != want {
		t.Errorf("the answer is %q, want %q", r.Text, want)
	}
	shown := map[string]string{"the answer": r.body, "the stream": strings.Join(raw(s.seen), "\n"), "the session": c.call(http.MethodGet, "/session/ID").body}
	var said strings.Builder
	for _, e := range s.seen {
		if e.Type == "text" {
			said.WriteString(e.Text)
		}
	}
	if said.String() != r.Text {
		t.Errorf("the stream says %q, the answer %q", said.String(), r.Text)
	}
	files, err := filepath.Glob(filepath.Join(d.cfg.DataDir, "runner.db*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no database: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		shown["the database's "+filepath.Base(file)] = string(data)
	}
	for what, text := range shown {
		secrets := []string{profileSecret, base64.StdEncoding.EncodeToString([]byte(profileSecret)), modelKey}
		if !strings.HasPrefix(what, "the database") { // where a task's env is while it waits and runs
			secrets = append(secrets, taskSecret)
		}
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows the secret %s", what, secret)
			}
		}
	}
}
