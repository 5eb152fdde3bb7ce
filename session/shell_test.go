package session_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"claude-runner/agent"
	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/docker"
	"claude-runner/backends/local"
	"claude-runner/session"
	"claude-runner/session/sqlite"
)

func TestMain(m *testing.M) {
	// database/sql's own goroutine ends a moment after Close.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// shellDriver's agent is a shell in a real sandbox: a message is a line of
// shell code, what it prints are texts, and HOME is its memory.
type shellDriver struct{}

const shellAgent = `while IFS= read -r line; do [ ! -e "$RUN/env" ] || . "$RUN/env"; echo BEGIN; eval "$line"; echo END; done`

func (shellDriver) Command(l agent.Launch) (agent.Command, error) {
	env := map[string]string{"HOME": l.Home.Sandbox, "RESUME": l.Resume, "NEW": l.NewID, "BASE": l.API.BaseURL, "RUN": l.Run.Sandbox}
	for k, v := range l.Env {
		env[k] = v
	}
	return agent.Command{Argv: []string{"sh", "-c", shellAgent}, Env: env}, nil
}

// SetEnv writes a file that the shell reads before each message. A variable
// called START needs a start.
func (shellDriver) SetEnv(l agent.Launch, env map[string]string) (bool, error) {
	if _, ok := env["START"]; ok {
		return false, nil
	}
	var b strings.Builder
	for name, value := range env {
		fmt.Fprintf(&b, "%s='%s'\n", name, value)
	}
	return true, os.WriteFile(filepath.Join(l.Run.Host, "env"), []byte(b.String()), 0o644)
}

func (shellDriver) Open(l agent.Launch, stdin io.WriteCloser, stdout io.Reader) agent.Conversation {
	c := &shell{id: l.Resume, stdin: stdin, lines: make(chan string), alive: true, from: l.TurnFrom}
	if c.id == "" {
		c.id = l.NewID
	}
	go func() {
		defer close(c.lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	return c
}

type shell struct {
	id    string
	stdin io.WriteCloser
	lines chan string
	alive bool

	from         int64 // bytes of turns that ended before it was taken over
	read, offset int64
}

func (c *shell) Offset() int64 { return c.offset }

func (c *shell) Ready() <-chan struct{} { return ready }

func (c *shell) Rehearse(context.Context) error { return nil }

// ready is closed: a shell takes lines from its beginning.
var ready = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (c *shell) Alive() bool { return c.alive }

func (c *shell) Turn(ctx context.Context, t agent.Turn, emit func(agent.Event)) (agent.Result, error) {
	r := agent.Result{AgentID: c.id, Model: "sh", CostUSD: 0.5, Turns: 1}
	if !t.Sent {
		if _, err := fmt.Fprintln(c.stdin, t.Message); err != nil {
			c.alive = false
			return r, &agent.Error{Code: agent.CodeAgentExited, Message: err.Error()}
		}
	}
	for {
		select {
		case <-ctx.Done():
			c.alive = false
			if errors.Is(context.Cause(ctx), agent.ErrDetached) {
				go func() { // nobody closes it; ends when its backend does
					for range c.lines {
					}
				}()
			}
			return r, context.Cause(ctx)
		case line, ok := <-c.lines:
			c.read += int64(len(line)) + 1
			switch {
			case c.read <= c.from:
			case !ok:
				c.alive = false
				return r, &agent.Error{Code: agent.CodeAgentExited, Message: "the shell ended"}
			case line == "BEGIN":
				emit(agent.Event{Type: agent.EventInit, Model: "sh"})
			case line == "END":
				c.offset = c.read
				return r, nil
			default:
				r.Text = strings.TrimPrefix(r.Text+"\n"+line, "\n")
				emit(agent.Event{Type: agent.EventText, Text: line})
			}
		}
	}
}

func (c *shell) Close(ctx context.Context) error {
	err := c.stdin.Close()
	for {
		select {
		case _, ok := <-c.lines:
			if !ok {
				return err
			}
		case <-ctx.Done():
			go func() { // ends when Stop ends the output
				for range c.lines {
				}
			}()
			return context.Cause(ctx)
		}
	}
}

// world is a manager on the local backend, with what a test may look at.
type world struct {
	*session.Manager
	t    testing.TB
	dir  string
	opts session.Options
	reg  *backends.Registry
}

// newWorld makes a manager with the agents "shell" (the default) and "other".
// change may alter its options, and the profile of both.
func newWorld(t testing.TB, change func(*session.Options, *agent.Profile)) *world {
	t.Helper()
	return openWorld(t, backendtest.SharedDir(t), change)
}

func openWorld(t testing.TB, dir string, change func(*session.Options, *agent.Profile)) *world {
	t.Helper()
	w := &world{t: t, dir: dir}
	store, err := sqlite.Open(context.Background(), filepath.Join(dir, "runner.db"))
	if err != nil {
		t.Fatal(err)
	}
	w.reg = newRegistry(t, dir)
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	template := filepath.Join(t.TempDir(), "template")
	mustWrite(t, filepath.Join(template, "AGENTS.md"), "You are a shell.")
	mustWrite(t, filepath.Join(template, "tools", "hello.sh"), "#!/bin/sh\necho hello")
	profile := agent.DefaultProfile()
	profile.Template, profile.Backend, profile.Limits = template, []string{"local"}, agent.Limits{}
	w.opts = session.Options{
		Store: store, DataDir: dir, Backends: w.reg, Driver: shellDriver{}, User: sandboxUser, Log: log,
		ModelAPIs: func() ([]agent.ModelAPI, error) {
			return []agent.ModelAPI{{BaseURL: "http://127.0.0.1:9/x", APIKey: "sk-test-key"}}, nil
		},
		Concurrency: 4, QueueDepth: 20, Boots: 4,
	}
	if change != nil {
		change(&w.opts, &profile)
	}
	profiles := map[string]agent.Profile{"shell": profile, "other": profile}
	if w.opts.Profiles.Default == "other" {
		delete(profiles, "shell")
	} else {
		w.opts.Profiles.Default = "shell"
	}
	if w.opts.Profiles, err = session.LoadProfiles(w.opts.Profiles.Default, profiles); err != nil {
		t.Fatal(err)
	}
	if w.Manager, err = session.Open(context.Background(), w.opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.close()
		endSandboxes(t, dir)
	})
	return w
}

// endSandboxes ends what a manager left running, for the next one to take over.
func endSandboxes(t testing.TB, dir string) {
	t.Helper()
	ctx := context.Background()
	reg := newRegistry(t, dir)
	b, _ := reg.Backend("local")
	handles, err := b.List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, h := range handles {
		if err := backends.Remove(ctx, b, h, 0); err != nil {
			t.Error(err)
		}
	}
	if err := reg.Close(); err != nil {
		t.Error(err)
	}
}

// sandboxUser is who sandboxes are where the tests are root.
var sandboxUser = backends.User{UID: 10001, GID: 10001}

// newRegistry makes the backends "local" and "broken", which never answers.
func newRegistry(t testing.TB, dir string) *backends.Registry {
	t.Helper()
	reg := backends.NewRegistry(docker.Kind(), local.Kind())
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	for name, cfg := range map[string]any{"local": &local.Config{}, "broken": &docker.Config{Host: "unix:///nonexistent/docker.sock"}} {
		kind := map[string]string{"local": "local", "broken": "docker"}[name]
		err := reg.Add(kind, cfg, backends.Options{
			Name: name, Instance: "session-test", StateDir: filepath.Join(dir, "backends", name), User: sandboxUser, Log: log,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return reg
}

// sharedDir returns a folder that sandboxes can reach.
func sharedDir(t testing.TB) string { return backendtest.SharedDir(t) }

// close ends the manager and all below it, at once; running tasks are
// interrupted. Closing twice does nothing.
func (w *world) close() {
	if w.reg == nil {
		return
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	if err := errors.Join(w.Close(now), w.reg.Close(), w.opts.Store.Close()); err != nil {
		w.t.Error(err)
	}
	w.reg = nil
}

func mustWrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// submit queues a message and returns its task.
func (w *world) submit(sessionID, message string) session.Task {
	w.t.Helper()
	task, err := w.Submit(w.t.Context(), session.Submission{SessionID: sessionID, Request: session.Request{Message: message}})
	if err != nil {
		w.t.Fatal(err)
	}
	return task
}

// wait returns the task at its end.
func (w *world) wait(t session.Task) session.Task {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	done, err := w.Wait(ctx, t.ID)
	if err != nil {
		w.t.Fatalf("wait for task %s: %v", t.Request.Message, err)
	}
	return done
}

// run is submit and wait, for a task that must succeed; it returns its words.
func (w *world) run(sessionID, message string) string {
	w.t.Helper()
	task := w.wait(w.submit(sessionID, message))
	if task.State != session.TaskSucceeded {
		w.t.Fatalf("task %q: %s %+v", message, task.State, task.Result.Error)
	}
	return task.Result.Text
}

// path names a file in the session's workspace.
func (w *world) path(sessionID, name string) string {
	return filepath.Join(w.dir, "sessions", sessionID, "workspace", name)
}

// hold is a message that keeps its task running until letGo.
const hold = `: > started; while [ ! -e go ]; do sleep 0.02; done`

func (w *world) letGo(sessionID string) { mustWrite(w.t, w.path(sessionID, "go"), "") }

// eventually waits until something is so.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (w *world) started(sessionID string) {
	w.t.Helper()
	eventually(w.t, sessionID+" has started", func() bool {
		_, err := os.Stat(w.path(sessionID, "started"))
		return err == nil
	})
}
