package claude_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/agent/claude"
)

var update = flag.Bool("update", false, "write what the golden folders should hold")

// TestConversations runs the folders of testdata/conversations: stdout.jsonl is
// what a CLI said, with an empty line between turns; launch.json, where there is
// one, how it was started; want.json what the driver made of it.
func TestConversations(t *testing.T) {
	folders, err := filepath.Glob("testdata/conversations/*")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, dir := range folders {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			got, err := json.MarshalIndent(replay(t, dir), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "want.json")
			if *update {
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimSpace(string(want)), string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// launched is launch.json.
type launched struct {
	Resume       string   `json:"resume"`
	Transcript   []string `json:"transcript"` // lines of the resumed conversation's
	MaxTurns     int      `json:"maxTurns"`
	MaxBudgetUSD float64  `json:"maxBudgetUsd"`
	Ends         bool     `json:"ends"` // the process ends behind its last line
}

// told is a turn in want.json.
type told struct {
	Events []agent.Event
	Result agent.Result
	Error  *agent.Error `json:",omitempty"`
	Alive  bool
}

func replay(t *testing.T, dir string) []told {
	said, err := os.ReadFile(filepath.Join(dir, "stdout.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	how := readLaunch(t, dir)
	turns := bytes.Split(bytes.TrimSpace(said), []byte("\n\n"))
	l := agent.Launch{Model: "claude-sonnet-4-6", Resume: how.Resume, Template: &agent.Template{System: "You are a test."}}
	l.Profile.MaxTurns, l.Profile.MaxBudgetUSD = how.MaxTurns, how.MaxBudgetUSD
	if how.Transcript != nil {
		home := t.TempDir()
		writeTranscript(t, home, "-workspace", how.Resume, strings.Join(how.Transcript, ""))
		l.Home.Host = home
	}
	c, stop := open(l, turns, how.Ends)
	defer stop()

	var all []told
	for range turns {
		got := told{Events: []agent.Event{}}
		var err error
		got.Result, err = c.Turn(t.Context(), agent.Turn{Message: "go on"}, func(e agent.Event) { got.Events = append(got.Events, e) })
		if err != nil && !errors.As(err, &got.Error) {
			t.Fatal(err)
		}
		if got.Result.Duration <= 0 {
			t.Error("no duration")
		}
		got.Result.Duration = 0
		got.Alive = c.Alive()
		all = append(all, got)
	}
	return all
}

// readLaunch reads launch.json, where there is one.
func readLaunch(t *testing.T, dir string) launched {
	t.Helper()
	var how launched
	if text, err := os.ReadFile(filepath.Join(dir, "launch.json")); err == nil {
		if err := json.Unmarshal(text, &how); err != nil {
			t.Fatal(err)
		}
	}
	return how
}

func writeTranscript(t *testing.T, home, folder, id, text string) {
	t.Helper()
	dir := filepath.Join(home, ".claude", "projects", folder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, id+".jsonl"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// open opens a conversation with a CLI that says each of turns behind a prompt.
func open(l agent.Launch, turns [][]byte, ends bool) (c agent.Conversation, stop func()) {
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	c = claude.New(claude.Options{}).Open(l, stdin, stdout)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer out.Close()
		lines := bufio.NewReader(in)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			if !bytes.Contains(line, []byte(`"type":"user"`)) || len(turns) == 0 {
				continue
			}
			_, _ = out.Write(append(turns[0], '\n'))
			if turns = turns[1:]; len(turns) == 0 && ends {
				return
			}
		}
	}()
	return c, func() {
		_ = in.CloseWithError(io.ErrClosedPipe)
		_ = out.Close()
		<-done
	}
}
