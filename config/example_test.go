package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/config"
)

// The example at the repository's root is the one that `claude-runner init`
// writes, with the support agent in it.
func TestRootExample(t *testing.T) {
	text, err := config.Example{
		Agent: "support", Template: "./examples/support-agent/agent",
		Env:    map[string]string{"ACME_API_URL": "http://host.docker.internal:3457"},
		Egress: []agent.EgressRule{{Host: "host.docker.internal", Ports: []int{3457}}},
	}.YAML()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("..", config.DefaultFile), string(text))

	cfg := load(t, options(t, "..", []string{"ANTHROPIC_API_KEY=k"}))
	if len(cfg.Warnings) > 0 {
		t.Errorf("the example has warnings: %v", cfg.Warnings)
	}
	profile := cfg.Agents["support"]
	if want := profile.Template; want == "" {
		t.Error("the example's agent has no template")
	}
	if cfg.ModelAPI.APIKey.Reveal() != "k" || profile.Env["ACME_API_URL"] != "http://host.docker.internal:3457" {
		t.Errorf("the example's key and environment are not read: %v", profile.Env)
	}
}

// But for what it is an example of, the example says the defaults.
func TestExampleIsDefaults(t *testing.T) {
	dir := t.TempDir()
	defaults := load(t, options(t, dir, nil))

	text, err := config.Example{Agent: "default"}.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, config.DefaultFile), text, 0o644); err != nil {
		t.Fatal(err)
	}
	example := load(t, options(t, dir, nil))
	if changed := config.RestartNeeded(defaults, example); len(changed) > 0 {
		t.Errorf("the example differs from the defaults in %v", changed)
	}
	if diff := cmp.Diff(defaults.Agents, example.Agents); diff != "" {
		t.Errorf("the example's agent differs from the default one (-default +example):\n%s", diff)
	}
	if defaults.DefaultAgent != example.DefaultAgent {
		t.Errorf("default_agent is %s, want %s", example.DefaultAgent, defaults.DefaultAgent)
	}
}
