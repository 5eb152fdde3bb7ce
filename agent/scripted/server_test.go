package scripted_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"claude-runner/agent/scripted"
)

func TestEndpoints(t *testing.T) {
	_, url := start(t, parse(t, "models: [claude-a, claude-b]\nrules: [{answer: [{text: hi}]}]"), scripted.Options{})
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string // in the body
	}{
		{"HEAD", "/", "", 200, ""},
		{"GET", "/", "", 200, "scripted"},
		{"GET", "/v1/models", "", 200, `"last_id":"claude-b"`},
		{"POST", "/v1/messages/count_tokens", `{"messages":[]}`, 200, `{"input_tokens":4}`},
		{"POST", "/v1/messages/count_tokens", `{`, 400, "invalid_request_error"},
		{"POST", "/v1/messages?beta=true", `{"model":"claude-a","max_tokens":1,"messages":[{"role":"user","content":"x"}]}`, 200, `"hi"`},
		{"POST", "/v1/messages", `{"model":"claude-c","max_tokens":1,"messages":[{"role":"user","content":"x"}]}`, 404, "model: claude-c"},
		{"POST", "/v1/messages", `{"model":"claude-a","messages":[{"role":"user","content":"x"}]}`, 400, "max_tokens: Field required"},
		{"POST", "/v1/messages", `{"model":"claude-a","max_tokens":1}`, 400, "at least one message"},
		{"POST", "/v1/messages", `{"max_tokens":1}`, 400, "model: Field required"},
		{"POST", "/v1/messages", `nonsense`, 400, "not valid JSON"},
		{"GET", "/v1/messages", "", 404, "not_found_error"},
		{"POST", "/v1/complete", "{}", 404, "not_found_error"},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), tt.method, url+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != tt.status || !strings.Contains(string(body), tt.want) {
				t.Errorf("got %d %s, %v; want %d with %q", response.StatusCode, body, err, tt.status, tt.want)
			}
			if !strings.HasPrefix(response.Header.Get("Request-Id"), "req_") {
				t.Errorf("request-id is %q", response.Header.Get("Request-Id"))
			}
		})
	}
}

func TestRequireKey(t *testing.T) {
	for name, options := range map[string]scripted.Options{"by script": {}, "by options": {RequireKey: "opt"}} {
		t.Run(name, func(t *testing.T) {
			key := "scr"
			if options.RequireKey != "" {
				key = options.RequireKey
			}
			server, url := start(t, parse(t, "require_key: scr\nrules: [{answer: [{text: hi}]}]"), options)
			for _, tt := range []struct {
				header, value string
				status        int
			}{
				{"X-Api-Key", key, 200},
				{"Authorization", "Bearer " + key, 200},
				{"X-Api-Key", "wrong", 401},
				{"Authorization", key, 401},
				{"X-Other", key, 401},
			} {
				body, err := json.Marshal(question("hi"))
				if err != nil {
					t.Fatal(err)
				}
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/messages", strings.NewReader(string(body)))
				if err != nil {
					t.Fatal(err)
				}
				request.Header.Set(tt.header, tt.value)
				response, err := http.DefaultClient.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				if response.StatusCode != tt.status {
					t.Errorf("%s: %s: got %d, want %d", tt.header, tt.value, response.StatusCode, tt.status)
				}
			}
			if got := server.Served(); got.Calls != 2 || got.Errors != 3 {
				t.Errorf("served %+v", got)
			}
		})
	}
}

func TestBodyTooLarge(t *testing.T) {
	server, url := start(t, builtin(t, "hello"), scripted.Options{})
	response, body := post(t, url, `"`+strings.Repeat("x", 32<<20)+`"`)
	if response.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(body, "request_too_large") {
		t.Errorf("got %d %s", response.StatusCode, body)
	}
	if got := server.Served(); got.Errors != 1 || got.Calls != 0 {
		t.Errorf("served %+v", got)
	}
}

func TestUnmatchedIsAProblem(t *testing.T) {
	server := scripted.New(parse(t, "rules: [{match: {message: hello}, answer: [{text: a}]}]"), scripted.Options{})
	listener := httptest.NewServer(server)
	defer listener.Close()
	got := said(t, listener.URL, question("b"))
	if !strings.HasPrefix(got, "no rule matched: ") || !strings.Contains(got, `"b"`) {
		t.Errorf("the model said %q", got)
	}
	if served := server.Served(); served.Unmatched != 1 || served.Calls != 1 {
		t.Errorf("served %+v", served)
	}
	if diff := cmp.Diff([]string{got}, server.Problems()); diff != "" {
		t.Errorf("problems: %s", diff)
	}
	if got := said(t, listener.URL, talk); !strings.Contains(got, `2 tool results, the last of Grep: "no such`) {
		t.Errorf("the model said %q", got)
	}
	if got := server.Requests()[0].Rule; got != "" {
		t.Errorf("rule %q answered", got)
	}
}

func TestTemplateThatFailsIsAProblem(t *testing.T) {
	for name, tt := range map[string]struct{ rule, want string }{
		"no such group":    {`{answer: [{text: "{{.Match 3}}"}]}`, "match.message has no group 3"},
		"parse of no JSON": {`{answer: [{text: "{{parse .Message}}"}]}`, "is not JSON"},
		"input of no JSON": {`{answer: [{tool_use: A, input: '[1]'}]}`, "no JSON object"},
		"input deep down":  {`{answer: [{tool_use: A, input: {a: ["{{.HistoryMatch 0}}"]}}]}`, "match.history has no group"},
	} {
		t.Run(name, func(t *testing.T) {
			server := scripted.New(parse(t, "rules: ["+tt.rule+"]"), scripted.Options{})
			listener := httptest.NewServer(server)
			defer listener.Close()
			response, body := post(t, listener.URL, question("hello"))
			if response.StatusCode != http.StatusInternalServerError || !strings.Contains(body, tt.want) {
				t.Errorf("got %d %s, want 500 with %q", response.StatusCode, body, tt.want)
			}
			if problems := server.Problems(); len(problems) != 1 || !strings.Contains(problems[0], tt.want) {
				t.Errorf("problems %q, want %q", problems, tt.want)
			}
		})
	}
}

func TestServedTotals(t *testing.T) {
	server, url := start(t, parse(t, `
prices: {claude-test-1: {input: 3, output: 15, cache_read: 0.3, cache_write: 3.75}}
rules:
  - {match: {message: fail}, error: {status: 500}}
  - {match: {message: end}, answer: [{text: a}], fault: {kind: end}, usage: {input_tokens: 300, output_tokens: 9}}
  - answer: [{text: a}]
    usage: {input_tokens: 1000, output_tokens: 100, cache_read_input_tokens: 500, cache_creation_input_tokens: 20}`),
		scripted.Options{Prices: map[string]scripted.Price{"claude-test-2": {Output: 1000}}})
	for _, body := range []map[string]any{
		question("a"), with(question("a"), "stream", true), with(question("a"), "model", "claude-test-2"),
		with(question("a"), "model", "free"), question("fail"), question("end"), with(question("end"), "stream", true),
	} {
		post(t, url, body)
	}
	one := (1000*3 + 100*15 + 500*0.3 + 20*3.75) / 1e6
	want := scripted.Totals{
		Calls: 4, Errors: 1, Broken: 2, InputTokens: 4000, OutputTokens: 400,
		CacheReadTokens: 2000, CacheCreationTokens: 80, USD: 2*one + 0.1,
		CutInputTokens: 300, CutOutputTokens: 1, CutUSD: (300*3 + 15) / 1e6,
	}
	if diff := cmp.Diff(want, server.Served(), cmpopts.EquateApprox(0, 1e-12)); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
}

func TestRequestsAreRecorded(t *testing.T) {
	var hooked []scripted.Request
	server, url := start(t, parse(t, "rules: [{name: r, answer: [{text: a}]}]"), scripted.Options{
		KeepRequests: 2, OnRequest: func(r scripted.Request) { hooked = append(hooked, r) },
	})
	before := time.Now()
	for _, message := range []string{"one", "two", "three"} {
		body, err := json.Marshal(with(with(question(message), "tools", []any{map[string]any{"name": "Bash"}}), "system", "Be kind."))
		if err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/messages", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Api-Key", "very-secret")
		request.Header.Set("X-Mine", "kept")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	if len(hooked) != 3 {
		t.Fatalf("the hook saw %d requests, want 3", len(hooked))
	}
	var messages []string
	for _, r := range server.Requests() {
		messages = append(messages, r.View.Message)
	}
	if diff := cmp.Diff([]string{"two", "three"}, messages); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	got := hooked[0]
	if got.At.Before(before) || got.At.After(time.Now()) || got.Size == 0 {
		t.Errorf("at %v, %d bytes", got.At, got.Size)
	}
	if got.Header.Get("X-Api-Key") != "[credential]" || got.Header.Get("X-Mine") != "kept" {
		t.Errorf("headers %v", got.Header)
	}
	want := scripted.Request{
		Credentials: []string{"x-api-key"}, Conversation: "one", Model: "claude-test-1", Tools: []string{"Bash"},
		View: scripted.View{Model: "claude-test-1", System: "Be kind.", Message: "one", Turn: 1}, Rule: "r",
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(scripted.View{}),
		cmpopts.IgnoreFields(scripted.Request{}, "At", "Header", "Size")); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	server, url := start(t, builtin(t, "hello"), scripted.Options{})
	if _, err := server.Listen(strings.TrimPrefix(url, "http://")); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v for a port that is taken", err)
	}
}

func TestListenOnAllInterfacesGivesTheLoopbackURL(t *testing.T) {
	server, _ := start(t, builtin(t, "hello"), scripted.Options{})
	url, err := server.Listen(":0")
	if err != nil {
		t.Fatal(err)
	}
	if got := said(t, url, question("hi")); !strings.HasPrefix(url, "http://127.0.0.1:") || got != "Hello. You said: hi" {
		t.Errorf("%s said %q", url, got)
	}
}

func TestManyAtOnce(t *testing.T) {
	server, url := start(t, builtin(t, "hello"), scripted.Options{KeepRequests: -1})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 20 {
				response, err := send(t.Context(), url, true)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || !strings.Contains(string(body), "message_stop") {
					t.Errorf("got %s, %v", body, err)
				}
			}
		})
	}
	wg.Wait()
	if got := server.Served().Calls; got != 320 {
		t.Errorf("%d calls served, want 320", got)
	}
	if got := server.Requests(); len(got) != 0 {
		t.Errorf("%d requests are kept, want none", len(got))
	}
}
