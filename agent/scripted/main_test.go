package scripted_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"claude-runner/agent/scripted"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(int) { http.DefaultClient.CloseIdleConnections() }))
}

// start serves a script until the test ends, and fails the test for requests
// that no rule fits.
func start(t testing.TB, script *scripted.Script, options scripted.Options) (*scripted.Server, string) {
	t.Helper()
	server := scripted.New(script, options)
	url, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		for _, problem := range server.Problems() {
			t.Errorf("problem: %s", problem)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return server, url
}

func parse(t testing.TB, yaml string) *scripted.Script {
	t.Helper()
	script, err := scripted.Parse([]byte(yaml))
	if err != nil {
		t.Fatalf("%v\n%s", err, yaml)
	}
	return script
}

func builtin(t testing.TB, name string) *scripted.Script {
	t.Helper()
	script, err := scripted.Builtin(name)
	if err != nil {
		t.Fatal(err)
	}
	return script
}

// question is a request body with one user message.
func question(message string) map[string]any {
	return map[string]any{
		"model": "claude-test-1", "max_tokens": 100,
		"messages": []any{map[string]any{"role": "user", "content": message}},
	}
}

// with returns body with one more key.
func with(body map[string]any, key string, value any) map[string]any {
	body[key] = value
	return body
}

// post sends body, which is JSON already or made so, and returns the answer
// and what could be read of its body.
func post(t testing.TB, url string, body any) (*http.Response, string) {
	t.Helper()
	data, ok := body.(string)
	if !ok {
		encoded, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		data = string(encoded)
	}
	if !strings.Contains(url, "/v1/") {
		url += "/v1/messages"
	}
	response, err := http.Post(url, "application/json", bytes.NewReader([]byte(data)))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	read, _ := io.ReadAll(response.Body) // a cut answer ends with an error
	return response, string(read)
}

// said asks without streaming and returns the answer's first text.
func said(t testing.TB, url string, body any) string {
	t.Helper()
	response, text := post(t, url, body)
	var answer struct {
		Content []struct{ Text string }
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || len(answer.Content) == 0 {
		t.Fatalf("status %d, body %s, %v", response.StatusCode, text, err)
	}
	return answer.Content[0].Text
}
