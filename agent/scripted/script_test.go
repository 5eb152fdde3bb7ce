package scripted_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/agent/scripted"
)

func TestBuiltinsAreWellFormed(t *testing.T) {
	if len(scripted.Builtins()) == 0 {
		t.Fatal("the library is empty")
	}
	for _, name := range scripted.Builtins() {
		if _, err := scripted.Builtin(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := scripted.Builtin("none"); err == nil || !strings.Contains(err.Error(), "hello") {
		t.Errorf("an unknown name: %v, want the names that there are", err)
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(file, []byte("rules: []"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := scripted.Load(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want the file's name", err)
	}
	if _, err := scripted.Load(file + ".none"); err == nil || !strings.Contains(err.Error(), "bad.yaml.none") {
		t.Errorf("got %v, want the file's name", err)
	}
}

func TestParseSaysWhatIsWrongAndWhere(t *testing.T) {
	for name, tt := range map[string]struct {
		yaml string
		want []string // each in the error
	}{
		"empty":            {"", []string{"empty"}},
		"only a comment":   {"# nothing\n", []string{"empty"}},
		"no rules":         {"models: [a]", []string{"line 1", "at least one"}},
		"not YAML":         {"rules: [", []string{"line 1"}},
		"a list":           {"- a\n- b", []string{"line 1", "want a mapping"}},
		"two documents":    {"rules: [{answer: [{text: a}]}]\n---\nrules: []", []string{"more than one"}},
		"unknown key":      {"rules:\n  - answr: [{text: a}]", []string{"line 2", `unknown key "answr"`, "answer"}},
		"unknown in match": {"rules:\n  - match: {mesage: a}\n    answer: [{text: a}]", []string{"line 2", `"mesage"`, "message"}},
		"two mistakes": {
			"rules:\n  - answr: [{text: a}]\n  - anser: [{text: a}]",
			[]string{"line 2", "line 3", `"anser"`},
		},
		"key twice":         {"rules: []\nrules: []", []string{"line 2", "already"}},
		"bad regexp":        {"rules:\n  - match:\n      message: /(/\n    answer: [{text: a}]", []string{"line 3", "missing closing"}},
		"pattern is a list": {"rules:\n  - match:\n      message: [a]\n    answer: [{text: a}]", []string{"line 3", "want a text"}},
		"bad template":      {"rules:\n  - answer:\n      - text: '{{.Message'", []string{"line 3", "unclosed action"}},
		"text is a mapping": {"rules:\n  - answer:\n      - text: {a: b}", []string{"line 3", "want a text"}},
		"input is a list":   {"rules:\n  - answer:\n      - tool_use: A\n        input: [a]", []string{"line 4", "want a mapping"}},
		"bad input template": {
			"rules:\n  - answer:\n      - tool_use: A\n        input:\n          deep: ['{{nope}}']",
			[]string{"line 5", `function "nope" not defined`},
		},
		"input not JSON":     {"rules:\n  - answer:\n      - tool_use: A\n        input: {a: .nan}", []string{"line 4", "JSON cannot say"}},
		"input of itself":    {"rules:\n  - answer:\n      - tool_use: A\n        input: &x {a: *x}", []string{"contains itself"}},
		"merge in input":     {"rules:\n  - answer:\n      - tool_use: A\n        input: {<<: {a: b}}", []string{"line 4", "plain keys"}},
		"bad duration":       {"rules:\n  - delay: soon\n    answer: [{text: a}]", []string{"line 2", "200ms"}},
		"negative delay":     {"rules:\n  - delay: -1s\n    answer: [{text: a}]", []string{"line 2", "negative"}},
		"negative times":     {"rules:\n  - times: -1\n    answer: [{text: a}]", []string{"line 2", "times is -1"}},
		"bad number":         {"rules:\n  - times: many\n    answer: [{text: a}]", []string{"line 2", "whole number"}},
		"bad bool":           {"rules:\n  - match: {stream: perhaps}\n    answer: [{text: a}]", []string{"line 2", "true or false"}},
		"bad per":            {"rules:\n  - times: 1\n    per: day\n    answer: [{text: a}]", []string{"line 3", "conversation or server"}},
		"per without times":  {"rules:\n  - per: server\n    answer: [{text: a}]", []string{"line 2", "give times"}},
		"negative results":   {"rules:\n  - match:\n      tool_results: -1\n    answer: [{text: a}]", []string{"line 3", "tool_results is -1"}},
		"negative usage":     {"rules:\n  - usage: {input_tokens: -1}\n    answer: [{text: a}]", []string{"line 2", "negative"}},
		"negative price":     {"prices:\n  m: {input: -1}\nrules: [{answer: [{text: a}]}]", []string{"line 2", "negative"}},
		"no block":           {"rules:\n  - answer:\n      - chunk: 3", []string{"line 3", "one of text"}},
		"two blocks in one":  {"rules:\n  - answer:\n      - {text: a, thinking: b}", []string{"line 3", "one of text"}},
		"input of text":      {"rules:\n  - answer:\n      - {text: a, input: {}}", []string{"line 3", "belongs to tool_use"}},
		"negative chunk":     {"rules:\n  - answer:\n      - text: a\n        chunk: -1", []string{"line 4", "chunk is -1"}},
		"no answer":          {"rules:\n  - match: {message: a}", []string{"line 2", "answers nothing"}},
		"answer and error":   {"rules:\n  - answer: [{text: a}]\n    error: {status: 500}", []string{"line 3", "not both", "error.at"}},
		"fault and error":    {"rules:\n  - answer: [{text: a}]\n    error: {at: 1}\n    fault: {kind: cut}", []string{"line 2", "not both"}},
		"bad status":         {"rules:\n  - error: {status: 200}", []string{"line 2", "400 to 599"}},
		"error event first":  {"rules:\n  - error: {at: 1}", []string{"line 2", "answers nothing"}},
		"bad fault":          {"rules:\n  - answer: [{text: a}]\n    fault: {kind: rest}", []string{"line 3", "hang, cut, malformed or end"}},
		"bad moment":         {"rules:\n  - answer: [{text: a}]\n    fault: {kind: cut, at: noon}", []string{"line 3", "want headers"}},
		"end at headers":     {"rules:\n  - fault: {kind: end, at: headers}", []string{"line 2", "number of deltas"}},
		"answer, no headers": {"rules:\n  - answer: [{text: a}]\n    fault: {kind: hang, at: headers}", []string{"line 3", "no room"}},
		"unreachable rule":   {"rules:\n  - answer: [{text: a}]\n  - answer: [{text: b}]", []string{"line 2", "rule 1 fits every request"}},
		"name twice": {
			"rules:\n  - {name: a, match: {model: x}, answer: [{text: a}]}\n  - {name: a, answer: [{text: a}]}",
			[]string{"line 3", "twice"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := scripted.Parse([]byte(tt.yaml))
			if err == nil {
				t.Fatalf("no error for\n%s", tt.yaml)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %q in it", err, want)
				}
			}
			if strings.Contains(err.Error(), "scripted.") {
				t.Errorf("the error speaks of Go types: %v", err)
			}
		})
	}
}

func TestMustParsePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic for a bad script")
		}
	}()
	scripted.MustParse("rules: []")
}
