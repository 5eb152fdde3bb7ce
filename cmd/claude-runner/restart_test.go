package main

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"claude-runner/agent/scripted"
	"claude-runner/session"
)

// TestRestart holds that a server which starts on an earlier one's data folder
// knows its sessions, and that their agents remember.
func TestRestart(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
			cfg := loadConfig(t, testConfig, variables(t, kind.Name, url))
			p := startProgram(t, cfg)
			requireAgent(t, p, kind.Name)
			c := p.chat(t, "")
			first := c.ask("say: my colour is green")
			s := c.stream("?after=0")
			s.until("task_complete")
			before := c.details()
			if err := p.stop(); err != nil {
				t.Fatal(err)
			}

			c = startProgram(t, cfg).chat(t, "")
			if after := c.details(); after != before {
				t.Errorf("the session was %+v, and is %+v", before, after)
			}
			var again task
			c.p.get(t, "/task/"+first.TaskID, &again)
			if again.Text != first.Text || again.Cost != first.Cost || again.Status != "succeeded" {
				t.Errorf("the task was %s, and is %+v", first.body, again)
			}
			if replayed := replay(c, len(s.seen)-1); !slices.Equal(replayed, raw(s.seen[1:])) {
				t.Errorf("the events were\n%s\nand are\n%s", strings.Join(raw(s.seen[1:]), "\n"), strings.Join(replayed, "\n"))
			}
			if r := c.ask("what do you know?"); r.Text != `turn 2: ["say: my colour is green"]` || !r.Resumed {
				t.Errorf("the agent says %s", r.body)
			}
		})
	}
}

// TestShutdown holds that SIGTERM lets running tasks finish, that no new one is
// taken meanwhile, and that those which wait run after the restart.
func TestShutdown(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	cfg := loadConfig(t, testConfig, with(variables(t, "local", url), "CLAUDE_RUNNER_SHUTDOWN_GRACE", "1m"))
	p := startProgram(t, cfg)
	requireAgent(t, p, "local")
	c := p.chat(t, "")
	s := c.stream("")
	running := c.held("")
	waiting := c.begin("say: I waited")
	eventually(t, waitLong, "a task waits", func() bool { return c.details().Queued == 1 })
	queued := s.until("task_queued")
	for queued.Position == nil || *queued.Position == 0 {
		queued = s.until("task_queued")
	}

	stopped := make(chan error, 1)
	go func() { stopped <- p.stop() }()
	if r := <-waiting; r.status != http.StatusServiceUnavailable || r.Code != "shutting_down" || r.header.Get("Retry-After") == "" {
		t.Errorf("the task that waits: %d %s", r.status, r.body)
	}
	if r := c.other("new").send("say: hi"); r.status != http.StatusServiceUnavailable || r.Code != "shutting_down" || r.header.Get("Retry-After") == "" {
		t.Errorf("a new task: %d %s", r.status, r.body)
	}
	if health, err := p.do(t.Context(), http.MethodGet, "/health", ""); err != nil || health.status != http.StatusServiceUnavailable {
		t.Errorf("GET /health: %d %s, %v", health.status, health.body, err)
	}
	c.letGo()
	if r := <-running; r.status != http.StatusOK || r.Text != "held" {
		t.Errorf("the running task: %d %s", r.status, r.body)
	}
	if err := <-stopped; err != nil {
		t.Errorf("the server: %v", err)
	}

	p = startProgram(t, cfg)
	var done task
	eventually(t, waitLong, "the task that waited has run", func() bool {
		p.get(t, "/task/"+queued.TaskID, &done)
		return session.TaskState(done.Status).Ended()
	})
	if done.Status != "succeeded" || done.Text != "I waited" {
		t.Errorf("the task that waited: %+v", done)
	}
}

// TestShutdownGrace holds that a task which is not done within the grace is not
// lost: the next server ends it.
func TestShutdownGrace(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	cfg := loadConfig(t, testConfig, with(variables(t, "local", url), "CLAUDE_RUNNER_SHUTDOWN_GRACE", "100ms"))
	p := startProgram(t, cfg)
	requireAgent(t, p, "local")
	c := p.chat(t, "")
	running := c.held("")
	if err := p.stop(); err != nil {
		t.Errorf("the server: %v", err)
	}
	r := <-running
	if r.status != http.StatusServiceUnavailable || r.TaskID == "" {
		t.Fatalf("the running task: %d %s", r.status, r.body)
	}
	p = startProgram(t, cfg)
	c.letGo()
	var done task
	eventually(t, waitLong, "the task has ended", func() bool {
		p.get(t, "/task/"+r.TaskID, &done)
		return session.TaskState(done.Status).Ended()
	})
	if done.Status != "succeeded" || done.Text != "held" {
		t.Errorf("the task: %+v", done)
	}
}

// TestTwoServers holds that one data folder has one server.
func TestTwoServers(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	cfg := loadConfig(t, testConfig, variables(t, "local", url))
	first := startProgram(t, cfg)
	second, err := openApp(t.Context(), cfg, newLogger(cfg, first.logs))
	if err == nil {
		t.Fatal("a second server starts on the same data folder", second.Close(context.Background()))
	}
	if want := "data folder " + cfg.DataDir + " is in use by another claude-runner"; !strings.Contains(err.Error(), want) {
		t.Errorf("the second server says %q, want %q", err, want)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	startProgram(t, cfg)
}

// TestMove holds that a session remembers, and keeps its files, on whichever of
// its agent's backends a task runs.
func TestMove(t *testing.T) {
	_, url := startModel(t, "testdata/script.yaml", scripted.Options{})
	env := with(variables(t, "local", url), "CLAUDE_RUNNER_AGENTS__WORKER__BACKEND", "docker,podman,local")
	p := startProgram(t, loadConfig(t, testConfig, env))
	var usable []string
	for _, kind := range kinds() {
		t.Run("on "+kind.Name, func(t *testing.T) {
			requireAgent(t, p, kind.Name)
			usable = append(usable, kind.Name)
		})
	}
	if len(usable) == 0 {
		t.Skip("no backend can run an agent here")
	}
	c := p.chat(t, "")
	for i, backend := range append(slices.Clone(usable), usable[0]) {
		r := c.with("backend", backend).ask("run: echo " + backend + " >> data/places; wc -l < data/places")
		if strings.TrimSpace(r.Text) != strconv.Itoa(i+1) || r.Backend != backend || r.Resumed != (i > 0) {
			t.Errorf("task %d on %s: %s", i+1, backend, r.body)
		}
	}
	known := c.ask("what do you know?")
	if known.Backend != usable[0] {
		t.Errorf("the first backend that works is %s, and the task ran on %s", usable[0], known.Backend)
	}
	if want := "turn " + strconv.Itoa(len(usable)+2) + ":"; !strings.HasPrefix(known.Text, want) {
		t.Errorf("the agent says %q, want %q", known.Text, want)
	}
}
