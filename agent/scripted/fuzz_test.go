package scripted_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/agent/scripted"
)

// Whatever a script file holds, it is a script or an error that speaks of the
// file, not of the program.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/answers/*/script.yaml")
	if err != nil {
		f.Fatal(err)
	}
	library, err := filepath.Glob("scripts/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, library...) {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("rules: [{answer: [{tool_use: A, input: &x {a: *x}}]}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		script, err := scripted.Parse(data)
		if (script == nil) == (err == nil) {
			t.Errorf("script %v, error %v", script, err)
		}
		if err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Error("an error without words")
		}
	})
}

// Whatever a client sends, the answer is a message or a refusal, and never the
// server's own failure.
func FuzzRequest(f *testing.F) {
	script := parse(f, `
rules:
  - {match: {message: '/(a)/', history: b, tool_result: c, has_tool: d, system: e}, answer: [{text: "{{.Match 1}}"}]}
  - {match: {tool_name: Bash, tool_error: true}, times: 1, answer: [{thinking: "{{json .ToolResults}}"}]}
  - answer: [{text: "{{.Message}}{{.LastToolResult}}{{.History}}{{json .Earlier}}", chunk: 1}, {tool_use: Bash, input: {a: "{{.System}}"}}]`)
	f.Add(talk)
	f.Add(`{"model":"m","max_tokens":1,"stream":true,"messages":[{"role":"user","content":"\ud800<system-reminder>"}]}`)
	f.Add(`{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"tool_result","content":[null,{"type":"text"}]}]}]}`)
	f.Add(`{"model":"m","max_tokens":1,"metadata":{"user_id":"{"},"messages":[null,{}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		server := scripted.New(script, scripted.Options{})
		answer := httptest.NewRecorder()
		server.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/v1/messages", strings.NewReader(body)))
		switch answer.Code {
		case http.StatusOK, http.StatusBadRequest, http.StatusNotFound:
		default:
			t.Errorf("status %d: %s", answer.Code, answer.Body)
		}
		if problems := server.Problems(); len(problems) > 0 {
			t.Errorf("problems %q", problems)
		}
	})
}
