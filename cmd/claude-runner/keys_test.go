package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"claude-runner/agent/scripted"
)

// status asks a server for a path with a key.
func (p *program) status(t *testing.T, path, key string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// keys runs a keys command on testConfig.
func keys(t *testing.T, args ...string) outcome {
	t.Helper()
	return command(t.Context(), "", append([]string{"keys", args[0], "--config", testConfig}, args[1:]...)...)
}

// TestKeysBesideAServer holds that keys are made and revoked while a server
// runs, and that it takes them.
func TestKeysBesideAServer(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	env := variables(t, "local", url)
	setenv(t, env)
	p := startProgram(t, loadConfig(t, testConfig, env))
	requireAgent(t, p, "local")
	if got := p.status(t, "/sessions", ""); got != 200 {
		t.Fatalf("without keys: %d", got)
	}
	made := keys(t, "create", "--name", "web", "--agents", "worker,strict", "--rate", "60", "--concurrency", "4", "--budget", "5.00", "--expires", "720h")
	secret := strings.TrimSpace(made.stdout)
	if made.code != 0 || !regexp.MustCompile(`^crk_[a-z2-7]+_\S{43}$`).MatchString(secret) || !strings.Contains(made.stderr, "not shown again") {
		t.Fatalf("create: %+v", made)
	}
	if got := p.status(t, "/sessions", secret); got != 200 {
		t.Errorf("with the key: %d", got)
	}
	if got := p.status(t, "/sessions", ""); got != 401 {
		t.Errorf("without it: %d", got)
	}
	if got := p.status(t, "/backends", secret); got != 403 {
		t.Errorf("beyond its scopes: %d", got)
	}

	t.Setenv(envKey, secret)
	o := command(t.Context(), "", "run", "--server", p.base, "--session", "mine", "say: hello")
	if o.code != 0 || !strings.Contains(o.stdout, `"text": "hello"`) {
		t.Errorf("run with the key: %+v", o)
	}
	t.Setenv(envKey, "")
	o = command(t.Context(), "", "run", "--server", p.base, "say: hello")
	if o.code != exitUsage || !strings.Contains(o.stderr, "keys create") || !strings.Contains(o.stderr, envKey) {
		t.Errorf("run without a key: %+v", o)
	}

	list := keys(t, "list")
	if list.code != 0 || !regexp.MustCompile(`(?m)^web +\S+ +good +submit,read +worker,strict +60/min +4 +\$5\.00/day +\$\d`).MatchString(list.stdout) || strings.Contains(list.stdout, secret[20:]) {
		t.Errorf("list: %+v", list)
	}
	id := strings.Split(secret, "_")[1]
	if o := keys(t, "create", "--name", "web"); o.code != exitUsage || !strings.Contains(o.stderr, "already") {
		t.Errorf("the same name: %+v", o)
	}
	if o := keys(t, "revoke", id); o.code != 0 || !strings.Contains(o.stdout, "revoked key web") {
		t.Errorf("revoke: %+v", o)
	}
	eventually(t, waitLong, "it is revoked", func() bool { return p.status(t, "/sessions", secret) == 401 })
	if o := keys(t, "revoke", id); o.code != 0 || !strings.Contains(o.stdout, "before") {
		t.Errorf("revoke again: %+v", o)
	}
	if o := keys(t, "revoke", "web"); o.code != exitUsage || !strings.Contains(o.stderr, "there are: none") {
		t.Errorf("revoke by a name that is free: %+v", o)
	}
	if got := p.status(t, "/sessions", ""); got != 401 {
		t.Errorf("without a key, the last one revoked: %d", got)
	}

	admin := strings.TrimSpace(keys(t, "create", "--name", "ops", "--scopes", "admin").stdout)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.base+"/audit", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+admin)
	resp, err := p.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var page struct {
		Entries []struct{ Action, KeyName, Target, SessionID string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range page.Entries {
		// The first submit, by nobody, is requireAgent's.
		if e.Action == "keys.create" || e.Action == "keys.revoke" || e.Action == "submit" {
			told = append(told, e.Action+" by "+e.KeyName)
		}
	}
	if got := strings.TrimPrefix(strings.Join(told, ", "), "submit by , "); got != "keys.create by command line, submit by web, keys.revoke by command line, keys.create by command line" {
		t.Errorf("audit: %s", got)
	}
	data, err := os.ReadFile(filepath.Join(env["DATA_DIR"], "runner.db"))
	if err != nil || strings.Contains(string(data), secret[20:]) {
		t.Errorf("the database has the secret, or %v", err)
	}
}

func TestKeysUsage(t *testing.T) {
	setenv(t, variables(t, "docker", "http://127.0.0.1:9"))
	for want, args := range map[string][]string{
		"needs a name":                 {"create"},
		"will not do":                  {"create", "--name", "a b"},
		`no agent "nobody"`:            {"create", "--name", "a", "--agents", "worker,nobody"},
		"the configuration has":        {"create", "--name", "a", "--agents", "nobody"},
		`"write" is none`:              {"create", "--name", "a", "--scopes", "write"},
		"can do nothing":               {"create", "--name", "a", "--scopes", ""},
		"rate":                         {"create", "--name", "a", "--rate", "-1"},
		"budget":                       {"create", "--name", "a", "--budget", "-1"},
		"concurrency":                  {"create", "--name", "a", "--concurrency", "-1"},
		"is over already":              {"create", "--name", "a", "--expires", "-1h"},
		`there is no key "nobody"`:     {"revoke", "nobody"},
		"accepts 1 arg(s), received 0": {"revoke"},
	} {
		if o := keys(t, args...); o.code != exitUsage || !strings.Contains(o.stderr, want) || o.stdout != "" {
			t.Errorf("%q: %+v, want %q", args, o, want)
		}
	}
	if o := keys(t, "list"); o.code != 0 || strings.Count(o.stdout, "\n") != 1 {
		t.Errorf("an empty list: %+v", o)
	}
}

// TestServeAsksForKeys holds that other machines are served only where they are
// asked for a key.
func TestServeAsksForKeys(t *testing.T) {
	setenv(t, variables(t, "docker", "http://127.0.0.1:9"))
	t.Setenv("CLAUDE_RUNNER_ALLOW_UNSANDBOXED", "true")
	ctx, cancel := context.WithTimeoutCause(t.Context(), waitLong, errors.New("it serves"))
	defer cancel()
	o := command(ctx, "", "serve", "--config", testConfig, "--listen", "0.0.0.0:0")
	if o.code != exitFailed || !strings.Contains(o.stderr, "claude-runner keys create --name") {
		t.Errorf("without keys: %+v", o)
	}
	if o := command(t.Context(), "", "doctor", "--config", testConfig, "--listen", "0.0.0.0:0"); !strings.Contains(o.stdout, "✗ keys: ") {
		t.Errorf("doctor: %+v", o)
	}
	secret := strings.TrimSpace(keys(t, "create", "--name", "web").stdout)
	p := startServe(t, "--config", testConfig, "--listen", "0.0.0.0:0")
	p.base = strings.NewReplacer("[::]", "127.0.0.1", "0.0.0.0", "127.0.0.1").Replace(p.base)
	if got := p.status(t, "/sessions", ""); got != 401 {
		t.Errorf("without a key: %d", got)
	}
	if got := p.status(t, "/sessions", secret); got != 200 {
		t.Errorf("with it: %d", got)
	}
}

// TestRunHereBesideKeys holds that run works by itself where keys were made.
func TestRunHereBesideKeys(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	env := variables(t, "local", url)
	setenv(t, env)
	t.Setenv(envKey, "")
	secret := strings.TrimSpace(keys(t, "create", "--name", "web").stdout)
	for _, key := range []string{"", secret} {
		t.Setenv(envKey, key)
		if o := command(t.Context(), "", runHere("say: hello")...); o.code != 0 || !strings.Contains(o.stdout, `"text": "hello"`) {
			t.Errorf("with %q: %+v", key, o)
		}
	}
}
