package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent/scripted"
)

// TestThreeAgents has three agents on three backends answer at once in one
// server, each with its own model, prompt, tools and limits.
func TestThreeAgents(t *testing.T) {
	const question = "what are your limits?"
	m := meeting{guests: map[string]bool{}, all: make(chan struct{})}
	model, url := startModel(t, "testdata/three.script.yaml", scripted.Options{OnRequest: func(r scripted.Request) {
		if r.View.Message == question {
			m.come(r.View.System, 3)
		}
	}})
	env := variables(t, "local", url)
	p := startProgram(t, loadConfig(t, "testdata/three.yaml", env))
	for _, kind := range kinds() {
		requireAgent(t, p, kind.Name)
	}

	wants := map[string]struct {
		backend, model, prompt string
		tools                  []string
		files                  int
	}{
		"clerk":    {"docker", "claude-sonnet-4-6", "You are a clerk.", []string{"Bash"}, 1024},
		"reader":   {"podman", "claude-haiku-4-5-20251001", "You are a reader.", []string{"Bash", "Read"}, 2048},
		"musician": {"local", "claude-sonnet-4-6", "You are a musician.", []string{"Bash", "Write"}, 512},
	}
	var all sync.WaitGroup
	for agent, want := range wants {
		all.Go(func() {
			c := p.chat(t, agent)
			r := c.send(question)
			if r.status != http.StatusOK || r.Backend != want.backend || r.Model != want.model || r.Text != fmt.Sprint("open files: ", want.files) {
				t.Errorf("%s: %d %s", agent, r.status, r.body)
			}
		})
	}
	all.Wait()

	for agent, want := range wants {
		i := slices.IndexFunc(model.Requests(), func(r scripted.Request) bool {
			return strings.Contains(r.View.System, want.prompt) && r.View.Message == question
		})
		if i < 0 {
			t.Errorf("%s: the model was never told %q", agent, want.prompt)
			continue
		}
		r := model.Requests()[i]
		if r.Model != want.model {
			t.Errorf("%s: model %s, want %s", agent, r.Model, want.model)
		}
		if diff := cmp.Diff(want.tools, slices.Sorted(slices.Values(r.Tools))); diff != "" {
			t.Errorf("%s: tools (-want +got):\n%s", agent, diff)
		}
	}
	if !m.isComplete() {
		t.Error("the three agents did not work at the same time")
	}
}

// meeting holds who comes until all have come.
type meeting struct {
	mu     sync.Mutex
	guests map[string]bool
	all    chan struct{} // closed when the last one has come
}

func (m *meeting) come(guest string, expected int) {
	m.mu.Lock()
	if !m.guests[guest] {
		if m.guests[guest] = true; len(m.guests) == expected {
			close(m.all)
		}
	}
	m.mu.Unlock()
	select {
	case <-m.all:
	case <-time.After(waitLong): // the test fails for it
	}
}

func (m *meeting) isComplete() bool {
	select {
	case <-m.all:
		return true
	default:
		return false
	}
}
