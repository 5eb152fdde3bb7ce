// Package examples_test runs the examples: their tools, scripts, templates,
// configurations and the demo.
package examples_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"claude-runner/agent"
	"claude-runner/agent/scripted"
	"claude-runner/backends"
	"claude-runner/backends/docker"
	"claude-runner/backends/local"
	"claude-runner/backends/podman"
	"claude-runner/config"
)

// exampleFolders are the examples that are a folder.
var exampleFolders = []string{"support-agent", "code-reviewer"}

func TestTemplatesLoad(t *testing.T) {
	for _, folder := range exampleFolders {
		template, err := agent.LoadTemplate(filepath.Join(folder, "agent"))
		if err != nil {
			t.Error(err)
			continue
		}
		if template.Output == "" || template.Schema == nil {
			t.Errorf("%s: the answer's format is missing", folder)
		}
	}
}

func TestScriptsLoad(t *testing.T) {
	for _, file := range []string{"support-agent/script.yaml", "code-reviewer/script.yaml", "multi-agent.script.yaml"} {
		if _, err := scripted.Load(file); err != nil {
			t.Error(err)
		}
	}
}

func TestConfigurationsLoad(t *testing.T) {
	for file, agents := range map[string][]string{
		"support-agent/config.yaml": {"support"},
		"code-reviewer/config.yaml": {"reviewer"},
		"multi-agent.yaml":          {"assistant", "reviewer", "support"},
	} {
		cfg, err := config.Load(config.Options{
			Path:    file,
			Kinds:   []backends.Kind{docker.Kind(), podman.Kind(), local.Kind()},
			Environ: func() []string { return []string{"ACME_API_TOKEN=x"} },
		})
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if len(cfg.Warnings) > 0 {
			t.Errorf("%s: warnings %v", file, cfg.Warnings)
		}
		if diff := cmp.Diff(agents, slices.Sorted(maps.Keys(cfg.Agents))); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
		for name, profile := range cfg.Agents {
			if _, err := agent.LoadTemplate(profile.Template); err != nil {
				t.Errorf("%s: agent %s: %v", file, name, err)
			}
		}
	}
}

// The CLI takes a schema that is no valid one without a word, and then holds
// no answer against it.
func TestSchemas(t *testing.T) {
	answers := map[string]map[string]bool{
		"support-agent": {
			`{"action":"resolve","response":"Hi.","user":{"name":"A","email":"a@b.c","plan":"growth"},"confidence":1}`: true,
			`{"action":"ask","response":"Which address?","confidence":0.5}`:                                            true,
			`{"action":"escalate","response":"A colleague will write.","ticketId":"tkt_2","confidence":0}`:             true,
			`{"action":"refund","response":"Hi.","confidence":1}`:                                                      false,
			`{"action":"resolve","response":"","confidence":1}`:                                                        false,
			`{"action":"resolve","response":"Hi.","confidence":1.5}`:                                                   false,
			`{"action":"resolve","response":"Hi.","user":{"name":"A"},"confidence":1}`:                                 false,
			`{"action":"resolve","response":"Hi.","confidence":1,"mood":"sunny"}`:                                      false,
			`{"response":"Hi."}`: false,
			`"Hi."`:              false,
		},
		"code-reviewer": {
			`{"verdict":"approve","summary":"Fine.","findings":[]}`: true,
			`{"verdict":"request_changes","summary":"S","findings":[{"file":"f","line":1,"severity":"high","title":"t","explanation":"e","suggestion":"s"}]}`:     true,
			`{"verdict":"request_changes","summary":"S","findings":[{"file":"f","line":0,"severity":"high","title":"t","explanation":"e","suggestion":"s"}]}`:     false,
			`{"verdict":"request_changes","summary":"S","findings":[{"file":"f","line":"1","severity":"high","title":"t","explanation":"e","suggestion":"s"}]}`:   false,
			`{"verdict":"request_changes","summary":"S","findings":[{"file":"f","line":1,"severity":"terrible","title":"t","explanation":"e","suggestion":"s"}]}`: false,
			`{"verdict":"approve","summary":"Fine."}`: false,
		},
	}
	for _, folder := range exampleFolders {
		t.Run(folder, func(t *testing.T) {
			schema := compileSchema(t, folder)
			for answer, valid := range answers[folder] {
				var value any
				if err := json.Unmarshal([]byte(answer), &value); err != nil {
					t.Fatal(err)
				}
				if err := schema.Validate(value); (err == nil) != valid {
					t.Errorf("%s: got error %v, want valid: %v", answer, err, valid)
				}
			}
		})
	}
}

// compileSchema returns an example's schema of answers.
func compileSchema(t *testing.T, folder string) *jsonschema.Schema {
	t.Helper()
	file := filepath.Join(folder, "agent", "output.schema.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource(file, doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile(file)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// A reader follows the links, and copies the paths.
func TestREADMEs(t *testing.T) {
	files, err := filepath.Glob("*/README.md")
	if err != nil {
		t.Fatal(err)
	}
	link, path := regexp.MustCompile(`\]\(([^)#:]+)[^)]*\)`), regexp.MustCompile(`\bexamples/[\w./-]*\w`)
	for _, file := range append(files, "README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			checkThere(t, file, filepath.Join(filepath.Dir(file), string(m[1])))
		}
		for _, m := range path.FindAll(text, -1) {
			checkThere(t, file, filepath.Join("..", string(m)))
		}
	}
}

func checkThere(t *testing.T, file, named string) {
	t.Helper()
	if _, err := os.Stat(named); err != nil {
		t.Errorf("%s names %s: %v", file, named, err)
	}
}
