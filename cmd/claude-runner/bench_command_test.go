package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"claude-runner/agent/clitest"
	"claude-runner/backends/backendtest"
)

// serveFromTest has bench's servers be this test's binary.
func serveFromTest(t *testing.T) {
	t.Helper()
	program := serveCommandLine
	t.Cleanup(func() { serveCommandLine = program })
	serveCommandLine = func(config string) (*exec.Cmd, error) {
		self, err := os.Executable()
		cmd := exec.Command(self)
		cmd.Env = []string{asServer + "=serve\n--config\n" + config}
		return cmd, err
	}
}

// benchArgs is a command line of bench for little time.
func benchArgs(t *testing.T, dir string, more ...string) []string {
	return append([]string{
		"bench", "--cli", clitest.Path(t), "--data-dir", dir, "--samples", "2", "--burst", "2", "--conversations", "2",
		"--duration", "1s", "--stored", "20", "--json", "-",
	}, more...)
}

// TestBench runs bench to its end, and holds that the figures can be true.
func TestBench(t *testing.T) {
	serveFromTest(t)
	for _, test := range []struct{ backend, parts string }{
		{"local", "cold,hot,load,idle,overhead"},
		{"docker", "cold,burst"},
	} {
		t.Run(test.backend, func(t *testing.T) {
			dir := backendtest.SharedDir(t)
			o := command(t.Context(), "", benchArgs(t, dir, "--backend", test.backend, "--only", test.parts)...)
			var r struct {
				Machine struct {
					Cores int
				}
				Backends []map[string]json.RawMessage
				Skipped  []struct {
					Reason string
				}
				Idle     json.RawMessage
				Overhead *overheadFigures
				Stored   *overheadFigures `json:"overhead_stored"`
				Targets  []struct {
					Held bool
				}
			}
			if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
				t.Fatalf("%v: %+v", err, o)
			}
			if len(r.Skipped) > 0 {
				backendtest.Require(t, test.backend, errors.New(r.Skipped[0].Reason))
			}
			if o.code != exitOK || len(r.Backends) != 1 || r.Machine.Cores < 1 {
				t.Fatalf("%+v", o)
			}
			b := r.Backends[0]
			for name, count := range map[string]int{"cold": 2, "pipe_cold": 2, "hot": 8, "pipe_hot": 8, "engine_run_cold": 2} {
				if raw, ok := b[name]; ok {
					checkTurns(t, name, count, raw)
				}
			}
			wanted := []string{"cold", "pipe_cold", "hot", "pipe_hot", "load"}
			if test.backend != "local" {
				wanted = []string{"cold", "pipe_cold", "burst"}
			} else if r.Idle == nil || !r.Overhead.holds(0) || !r.Stored.holds(20) {
				t.Errorf("idle %s, overhead %+v, with stored sessions %+v", r.Idle, r.Overhead, r.Stored)
			}
			for _, name := range wanted {
				if b[name] == nil {
					t.Errorf("no figures of %s: %s", name, o.stdout)
				}
			}
			if len(r.Targets) == 0 {
				t.Error("no target was looked at")
			}
			checkEmpty(t, dir)
		})
	}
}

// overheadFigures are tasks of an agent that does nothing.
type overheadFigures struct {
	StoredSessions int       `json:"stored_sessions"`
	TasksPerSecond float64   `json:"tasks_per_second"`
	Rounds         []float64 `json:"rounds_tasks_per_second"`
}

// holds reports whether the figures can be true, of a server with so many sessions.
func (f *overheadFigures) holds(stored int) bool {
	return f != nil && f.StoredSessions == stored && f.TasksPerSecond > 0 && len(f.Rounds) == 5 &&
		f.TasksPerSecond == slices.Sorted(slices.Values(f.Rounds))[2]
}

// checkTurns holds that there are count turns, which have all their moments, in
// their order.
func checkTurns(t *testing.T, name string, count int, raw json.RawMessage) {
	t.Helper()
	type figures struct {
		Count         int
		P50, P95, Max float64
		Samples       []float64
	}
	var turns struct {
		Request figures `json:"first_request_ms"`
		Words   figures `json:"first_words_ms"`
		Answer  figures `json:"answer_ms"`
	}
	if err := json.Unmarshal(raw, &turns); err != nil {
		t.Fatal(err)
	}
	for _, f := range []figures{turns.Request, turns.Words, turns.Answer} {
		if f.Count != count || len(f.Samples) != count || f.P50 <= 0 || f.P95 < f.P50 || f.Max < f.P95 {
			t.Errorf("%s: %+v", name, f)
		}
	}
	for i := range turns.Request.Samples {
		if turns.Request.Samples[i] > turns.Words.Samples[i] || turns.Request.Samples[i] > turns.Answer.Samples[i] {
			t.Errorf("%s: the answer came before the question: %s", name, raw)
		}
	}
}

// checkEmpty holds that bench left nothing in its folder, and no process.
func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("bench left %v (%v)", left, err)
	}
	if left := processes(t, filepath.Join(dir, "claude-runner-bench-")); len(left) > 0 {
		t.Errorf("bench left processes:\n%s", strings.Join(left, "\n"))
	}
}

// TestBenchInterrupted holds that bench cleans up when it is told to end, and
// gives what it has.
func TestBenchInterrupted(t *testing.T) {
	serveFromTest(t)
	dir := backendtest.SharedDir(t)
	ctx, interrupt := context.WithCancel(t.Context())
	ended := make(chan outcome, 1)
	go func() {
		ended <- command(ctx, "", benchArgs(t, dir, "--backend", "local", "--only", "load", "--duration", "10m")...)
	}()
	eventually(t, time.Minute, "an agent works", func() bool {
		homes, err := filepath.Glob(filepath.Join(dir, "*", "server-*", "sessions", "*", "home", ".claude"))
		return err == nil && len(homes) > 0 // which the CLI makes for itself
	})
	interrupt()
	if o := <-ended; o.code != exitAborted || !strings.Contains(o.stdout, `"interrupted": true`) || !strings.Contains(o.stderr, "was interrupted") {
		t.Errorf("%+v", o)
	}
	checkEmpty(t, dir)
}

func TestBenchUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--backend", "cloud"}, {"--only", "nonsense"}, {"--only", ""}, {"--samples", "0"}, {"--burst", "-1"}, {"--conversations", "x"},
		{"--duration", "1ms"}, {"--stored", "-1"}, {"--soak", "1s"}, {"--cli", "/nowhere/claude"}, {"more"},
	} {
		o := command(t.Context(), "", append([]string{"bench"}, args...)...)
		if o.code != exitUsage || !strings.HasPrefix(o.stderr, "claude-runner: ") || o.stdout != "" {
			t.Errorf("%q: %+v", args, o)
		}
	}
}

// TestBenchWithoutCLI holds that bench says how to get what it lacks.
func TestBenchWithoutCLI(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	o := command(t.Context(), "", "bench", "--backend", "local", "--only", "cold", "--data-dir", backendtest.SharedDir(t))
	if o.code != exitFailed || !strings.Contains(o.stderr, "make cli") {
		t.Errorf("%+v", o)
	}
}
