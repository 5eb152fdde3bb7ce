package claude_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/agent/claude"
	"claude-runner/agent/scripted"
)

// deaf is the input of a process whose first owner has ended.
type deaf struct{}

func (deaf) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
func (deaf) Close() error              { return nil }

// TestTakeOverTellsTheSame reads every turn of the golden conversations again,
// as a runner does that takes over a process of an earlier one.
func TestTakeOverTellsTheSame(t *testing.T) {
	folders, err := filepath.Glob("testdata/conversations/*")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, dir := range folders {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			want := replay(t, dir)
			said, err := os.ReadFile(filepath.Join(dir, "stdout.jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			turns := bytes.Split(bytes.TrimSpace(said), []byte("\n\n"))
			from := int64(0)
			for i, turn := range turns {
				got := takeOver(t, dir, turns, from)
				got.Alive = want[i].Alive
				if diff := cmp.Diff(asJSON(t, want[i]), asJSON(t, got)); diff != "" {
					t.Errorf("turn %d (-first time +taken over):\n%s", i, diff)
				}
				from += int64(len(turn)) + 1
			}
		})
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// takeOver reads the turn that begins at a byte of the output.
func takeOver(t *testing.T, dir string, turns [][]byte, from int64) told {
	t.Helper()
	how := readLaunch(t, dir)
	l := agent.Launch{Model: "claude-sonnet-4-6", Resume: how.Resume, Template: &agent.Template{System: "You are a test."}, Recovered: true, TurnFrom: from}
	l.Profile.MaxTurns, l.Profile.MaxBudgetUSD = how.MaxTurns, how.MaxBudgetUSD
	if how.Transcript != nil {
		l.Home.Host = t.TempDir()
		writeTranscript(t, l.Home.Host, "-workspace", how.Resume, strings.Join(how.Transcript, ""))
	}
	var all []byte
	for _, turn := range turns {
		all = append(append(all, turn...), '\n')
	}
	c := claude.New(claude.Options{}).Open(l, deaf{}, bytes.NewReader(all))
	got := told{Events: []agent.Event{}}
	var err error
	got.Result, err = c.Turn(t.Context(), agent.Turn{Message: "go on", Sent: true}, func(e agent.Event) { got.Events = append(got.Events, e) })
	if err != nil && !errors.As(err, &got.Error) {
		t.Fatal(err)
	}
	got.Result.Duration = 0
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	return got
}

// A runner that shuts down leaves its agent to itself, and the turn goes on.
func TestTurnIsLeftToItself(t *testing.T) {
	script := scripted.MustParse("rules:\n  - chunk_delay: 5ms\n    answer: [{text: \"" + strings.Repeat("word ", 20) + "\", chunk: 5}]\n")
	_, url := serve(t, script)
	p := start(t, newLaunch(t, url))
	ctx, cancel := context.WithCancelCause(t.Context())
	got := p.sayIn(ctx, agent.Turn{Message: "hello"}, func(e agent.Event) {
		if e.Type == agent.EventText {
			cancel(agent.ErrDetached)
		}
	})
	if !errors.Is(got.err, agent.ErrDetached) {
		t.Fatalf("the turn ended with %v", got.err)
	}
	whole := p.must(p.sayIn(t.Context(), agent.Turn{Message: "hello", Sent: true}, nil))
	if want := strings.Repeat("word ", 20); whole.Text != want {
		t.Errorf("the turn went on to %q, want %q", whole.Text, want)
	}
}
