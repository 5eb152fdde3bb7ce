package main

import (
	"net/http"
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
