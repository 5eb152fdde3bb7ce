package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"claude-runner/agent"
	"claude-runner/agent/gateway"
	"claude-runner/agent/scripted"
)

const greeting = `rules: [{answer: [{text: hi}], usage: {input_tokens: 1000, output_tokens: 100, cache_read_input_tokens: 10, cache_creation_input_tokens: 20}}]`

func TestModelCalls(t *testing.T) {
	for _, stream := range []bool{true, false} {
		t.Run(fmt.Sprintf("stream %t", stream), func(t *testing.T) {
			server, url := upstream(t, greeting, scripted.Options{})
			g, client := open(t, lease(t, url), gateway.Options{})
			response, text := do(t, client, request(t.Context(), body(stream, "hi")))
			if response.StatusCode != http.StatusOK {
				t.Fatalf("%s %s", response.Status, text)
			}
			contains(t, text, "hi", "end_turn")
			got := totals(t, g)
			want := agent.Usage{InputTokens: 1000, OutputTokens: 100, CacheReadInputTokens: 10, CacheCreationInputTokens: 20}
			if got.Calls != 1 || got.Failed+got.Cut != 0 || got.Usage != want || got.CostUSD != server.Served().USD {
				t.Errorf("totals %+v, served %+v", got, server.Served())
			}
			if by := got.ByModel[model]; by.Calls != 1 || by.Usage != want || by.Guessed || by.CostUSD != got.CostUSD {
				t.Errorf("by model %+v", by)
			}
		})
	}
}

func TestModelRoutes(t *testing.T) {
	_, url := upstream(t, greeting, scripted.Options{})
	g, client := open(t, lease(t, url), gateway.Options{})
	for _, tt := range []struct {
		method, path, token, body string
		status                    int
		want                      string
	}{
		{"HEAD", "/", "", "", 200, ""},
		{"GET", "/v1/models", token, "", 200, "has_more"},
		{"POST", "/v1/messages/count_tokens", token, `{"model":"claude-sonnet-4-6","messages":[]}`, 200, "input_tokens"},
		{"POST", "/v1/messages", "", string(body(false, "hi")), 401, "authentication_error"},
		{"POST", "/v1/messages", key, string(body(false, "hi")), 401, "authentication_error"},
		{"GET", "/v1/files", token, "", 404, "not_found_error"},
		{"POST", "/v1/messages/batches", token, "{}", 404, "not_found_error"},
		{"GET", "/v1/messages/../../secret", token, "", 404, "not_found_error"},
		{"POST", "//v1/messages", token, "{}", 404, "not_found_error"},
		{"POST", "/v1/messages", token, "[]", 400, "invalid_request_error"},
		{"POST", "/v1/messages", token, "", 400, "invalid_request_error"},
		{"POST", "/v1/messages", token, `{"model":"a","model":"b"}`, 400, "invalid_request_error"},
		{"POST", "/v1/messages", token, `{"model":"a","mod\u0065l":"b"}`, 400, "invalid_request_error"},
		{"POST", "/v1/messages", token, `{"model":"a"} {"model":"b"}`, 400, "invalid_request_error"},
		{"POST", "/v1/messages", token, `{"max_tokens":1}`, 400, "invalid_request_error"},
	} {
		r, err := http.NewRequest(tt.method, "http://model"+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		if tt.token != "" {
			r.Header.Set("Authorization", "Bearer "+tt.token)
		}
		response, text := do(t, client, r)
		if response.StatusCode != tt.status || !strings.Contains(text, tt.want) {
			t.Errorf("%s %s %s: %s %s, want %d %s", tt.method, tt.path, tt.body, response.Status, text, tt.status, tt.want)
		}
	}
	if got := totals(t, g); got.Calls != 0 {
		t.Errorf("totals %+v: nothing of this is metered", got)
	}
}

// seen records what an upstream gets, and answers with answer.
func seen(t *testing.T, answer http.HandlerFunc) (url string, last func() *http.Request) {
	var mu sync.Mutex
	var got *http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		got = r
		mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, func() *http.Request {
		mu.Lock()
		defer mu.Unlock()
		return got
	}
}

func TestCredentials(t *testing.T) {
	const other = "other-beta-1"
	for name, tt := range map[string]struct {
		api               agent.ModelAPI
		key, bearer, beta string
	}{
		"api key": {agent.ModelAPI{APIKey: key}, key, "", other},
		"bearer":  {agent.ModelAPI{AuthToken: key}, "", "Bearer " + key, other},
		"oauth":   {agent.ModelAPI{OAuthToken: key}, "", "Bearer " + key, other + ",oauth-2025-04-20"},
		"none":    {agent.ModelAPI{}, "", "", other},
	} {
		t.Run(name, func(t *testing.T) {
			// It gives back what it gets, which must not reach the sandbox.
			url, last := seen(t, func(w http.ResponseWriter, r *http.Request) {
				got := r.Header.Get("X-Api-Key") + r.Header.Get("Authorization")
				w.Header().Set("X-Echo", got)
				w.Header().Set("Set-Cookie", "a=b")
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, "you sent ", got)
			})
			l := lease(t)
			tt.api.BaseURL = url + "/prefix/"
			l.Upstreams = []agent.ModelAPI{tt.api}
			_, client := open(t, l, gateway.Options{})
			r := request(t.Context(), body(false, "hi"))
			r.Header.Set("Authorization", "Bearer "+token)
			r.Header.Set("Anthropic-Beta", other)
			r.Header.Set("Accept-Encoding", "gzip, br")
			r.Header.Set("Connection", "X-Hop")
			r.Header.Set("X-Hop", "1")
			r.Header.Set("Proxy-Authorization", "Basic abc")
			response, text := do(t, client, r)
			h := last().Header
			if h.Get("X-Api-Key") != tt.key || h.Get("Authorization") != tt.bearer || h.Get("Anthropic-Beta") != tt.beta {
				t.Errorf("headers %v", h)
			}
			if h.Get("Accept-Encoding") != "identity" || h.Get("X-Hop") != "" || h.Get("Proxy-Authorization") != "" {
				t.Errorf("headers %v", h)
			}
			if uri := last().RequestURI; uri != "/prefix/v1/messages?beta=true" {
				t.Errorf("URI %s", uri)
			}
			if all := fmt.Sprint(response.Header, text); strings.Contains(all, key) || strings.Contains(all, "a=b") {
				t.Errorf("the sandbox got %s", all)
			}
		})
	}
}

func TestModelAllowlist(t *testing.T) {
	server, url := upstream(t, greeting, scripted.Options{})
	l := lease(t, url)
	l.Models = []string{model, "claude-haiku-4-5"}
	_, client := open(t, l, gateway.Options{})
	for id, status := range map[string]int{
		model: 200, "claude-haiku-4-5-20251001": 200, "claude-opus-4-8": 403, "claude-sonnet-4-6-x": 403,
	} {
		data := strings.ReplaceAll(string(body(false, "hi")), model, id)
		response, text := do(t, client, request(t.Context(), []byte(data)))
		if response.StatusCode != status {
			t.Errorf("%s: %s %s", id, response.Status, text)
		}
		if status == 403 {
			contains(t, text, "permission_error", id, "claude-haiku-4-5")
		}
	}
	if n := server.Served().Calls; n != 2 {
		t.Errorf("%d calls went out", n)
	}
}

func TestFailover(t *testing.T) {
	const sentence = `rules: [{answer: [{text: second}]}]`
	for name, tt := range map[string]struct {
		first string
		again int // requests that the first gets of two calls
	}{
		"429":             {`rules: [{error: {status: 429, retry_after: "60"}}]`, 1},
		"429 for no time": {`rules: [{error: {status: 429, retry_after: "0"}}]`, 2},
		"529":             {`rules: [{error: {status: 529}}]`, 1},
		"401":             {`{require_key: another, rules: [{answer: [{text: first}]}]}`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			options := scripted.Options{}
			if name == "401" {
				options.RequireKey = "another"
			}
			first, url1 := upstream(t, tt.first, options)
			_, url2 := upstream(t, sentence, scripted.Options{})
			g, client := open(t, lease(t, url1, url2), gateway.Options{})
			for range 2 {
				response, text := do(t, client, request(t.Context(), body(true, "hi")))
				if response.StatusCode != http.StatusOK {
					t.Fatalf("%s %s", response.Status, text)
				}
				contains(t, text, "second")
			}
			if n := len(first.Requests()); n != tt.again {
				t.Errorf("the first got %d requests, want %d", n, tt.again)
			}
			failures := int64(first.Served().Errors)
			if got := totals(t, g); got.Calls != 2+failures || got.Failed != failures {
				t.Errorf("totals %+v, %d failures", got, failures)
			}
		})
	}
	t.Run("not reached", func(t *testing.T) {
		_, url := upstream(t, sentence, scripted.Options{})
		_, client := open(t, lease(t, deadURL(t), url), gateway.Options{})
		response, text := do(t, client, request(t.Context(), body(false, "hi")))
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s %s", response.Status, text)
		}
	})
	t.Run("the last one's answer counts", func(t *testing.T) {
		_, url1 := upstream(t, `rules: [{error: {status: 429}}]`, scripted.Options{})
		_, url2 := upstream(t, `rules: [{error: {status: 529}}]`, scripted.Options{})
		g, client := open(t, lease(t, url1, url2), gateway.Options{})
		response, text := do(t, client, request(t.Context(), body(false, "hi")))
		if response.StatusCode != 529 {
			t.Errorf("%s %s", response.Status, text)
		}
		contains(t, text, "overloaded_error")
		if got := totals(t, g); got.Calls != 2 || got.Failed != 2 {
			t.Errorf("totals %+v", got)
		}
	})
	t.Run("500 is passed on", func(t *testing.T) {
		_, url1 := upstream(t, `rules: [{error: {status: 500}}]`, scripted.Options{})
		_, url2 := upstream(t, sentence, scripted.Options{})
		_, client := open(t, lease(t, url1, url2), gateway.Options{})
		if response, text := do(t, client, request(t.Context(), body(false, "hi"))); response.StatusCode != http.StatusInternalServerError {
			t.Errorf("%s %s", response.Status, text)
		}
	})
}

// deadURL is one where nobody listens.
func deadURL(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestDeadUpstream(t *testing.T) {
	g, client := open(t, lease(t, deadURL(t)), gateway.Options{})
	response, text := do(t, client, request(t.Context(), body(false, "hi")))
	if response.StatusCode != http.StatusBadGateway {
		t.Errorf("%s %s", response.Status, text)
	}
	contains(t, text, `"type":"api_error"`)
	if got := totals(t, g); got.Calls != 1 || got.Failed != 1 {
		t.Errorf("totals %+v", got)
	}
}

func TestBudgets(t *testing.T) {
	server, url := upstream(t, greeting, scripted.Options{})
	l := lease(t, url)
	l.Budgets = []gateway.Budget{{Name: "session:1", LimitUSD: 100}, {Name: "task:1", LimitUSD: 0.009, SpentUSD: 0.001}}
	g, client := open(t, l, gateway.Options{})
	call := func() (int, string) {
		response, text := do(t, client, request(t.Context(), body(true, "hi")))
		return response.StatusCode, text
	}
	for i, want := range []int{200, 200, 403, 403} { // 0.004578 each
		if status, text := call(); status != want {
			t.Fatalf("call %d: %d %s", i, status, text)
		}
	}
	_, text := call()
	contains(t, text, "task:1", "permission_error", "$0.0090")
	got := totals(t, g)
	if e := got.Exceeded; got.Calls != 2 || e == nil || e.Budget != "task:1" || e.LimitUSD != 0.009 || e.SpentUSD < 0.01 {
		t.Errorf("totals %+v", got)
	}
	l.Budgets[1].LimitUSD = 0.011 // raised; what was spent is known
	if err := g.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{200, 403} {
		if status, text := call(); status != want {
			t.Fatalf("call %d: %d %s", i, status, text)
		}
	}
	l.Budgets, l.Meter = []gateway.Budget{{Name: "task:2", LimitUSD: 1, SpentUSD: 2}}, "task 2"
	if err := g.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if status, text := call(); status != 403 {
		t.Errorf("spent before: %d %s", status, text)
	}
	if n := server.Served().Calls; n != 3 {
		t.Errorf("%d calls went out", n)
	}
	if got := totals(t, g); got.Calls != 3 {
		t.Errorf("the first meter: %+v", got)
	}
	if err := g.Forget(t.Context(), "task"); err != nil {
		t.Fatal(err)
	}
	if got := totals(t, g); got.Calls != 0 {
		t.Errorf("forgotten: %+v", got)
	}
}

// The first delta is read while the second is an hour away; when the client
// leaves, so does the gateway, and what was announced is counted.
func TestStreamsAreNotHeldUp(t *testing.T) {
	server, url := upstream(t, `rules: [{chunk_delay: 1h, answer: [{text: ab, chunk: 1}], usage: {input_tokens: 70, output_tokens: 9}}]`, scripted.Options{})
	g, client := open(t, lease(t, url), gateway.Options{})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	response, err := client.Do(request(ctx, body(true, "hi")))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var read strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(read.String(), `"text":"a"`); read.Write(one) {
		if _, err := io.ReadFull(response.Body, one); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	waitFor(t, "the call to end", func() bool { return server.Served().Broken == 1 && totals(t, g).Cut == 1 })
	if got := totals(t, g); got.Calls != 1 || got.Usage.InputTokens != 70 || got.Usage.OutputTokens != 1 {
		t.Errorf("totals %+v", got)
	}
}

func TestCutAnswersAreCut(t *testing.T) {
	for _, kind := range []string{"cut", "end", "malformed"} {
		for _, stream := range []bool{true, false} {
			_, url := upstream(t, `rules: [{answer: [{text: abcdef, chunk: 1}], fault: {kind: `+kind+`, at: 3}, usage: {input_tokens: 5, output_tokens: 6}}]`, scripted.Options{})
			g, client := open(t, lease(t, url), gateway.Options{})
			response, err := client.Do(request(t.Context(), body(stream, "hi")))
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(response.Body)
			response.Body.Close()
			if (err != nil) != (kind == "cut") {
				t.Errorf("%s, stream %t: the body ends with %v", kind, stream, err)
			}
			got := totals(t, g)
			if got.Cut != 1 || stream && got.Usage.InputTokens != 5 {
				t.Errorf("%s, stream %t: totals %+v", kind, stream, got)
			}
		}
	}
}

func TestCloseEndsCalls(t *testing.T) {
	server, url := upstream(t, `rules: [{fault: {kind: hang, at: headers}}]`, scripted.Options{})
	l := lease(t, url)
	g, client := open(t, l, gateway.Options{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if response, err := client.Do(request(t.Context(), body(true, "hi"))); err == nil {
				response.Body.Close()
				t.Error("there was an answer")
			}
		})
	}
	waitFor(t, "the requests", func() bool { return len(server.Requests()) == 3 })
	if err := g.Close(t.Context(), l.ID); err != nil {
		t.Fatal(err)
	}
	if got := totals(t, g); got.Cut != 3 { // at once
		t.Errorf("totals %+v", got)
	}
	wg.Wait()
	if _, err := net.Dial("unix", l.Socket); err == nil {
		t.Error("the socket is still there")
	}
}

func TestUnknownModelCostsTheDearestPrice(t *testing.T) {
	_, url := upstream(t, greeting, scripted.Options{})
	l := lease(t, url)
	l.Prices = nil
	g, client := open(t, l, gateway.Options{})
	do(t, client, request(t.Context(), []byte(strings.ReplaceAll(string(body(false, "hi")), model, "claude-new-9"))))
	by := totals(t, g).ByModel["claude-new-9"]
	if want := (1000*15 + 100*75 + 10*1.5 + 20*18.75) / 1e6; !by.Guessed || by.CostUSD < want-1e-9 || by.CostUSD > want+1e-9 {
		t.Errorf("%+v, want $%f", by, want)
	}
}

func TestHourOfCacheAndDeltas(t *testing.T) {
	url, _ := seen(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "event: message_start\r\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-sonnet-4-6\",\"usage\":{\"input_tokens\":10,\"output_tokens\":1,\"cache_creation_input_tokens\":100,\"cache_creation\":{\"ephemeral_5m_input_tokens\":40,\"ephemeral_1h_input_tokens\":60}}}}\r\n\r\n",
			"event: message_delta\r\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":20}}\r\n\r\n",
			"event: message_delta\r\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":30}}\r\n\r\n",
			"event: message_stop\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n")
	})
	g, client := open(t, lease(t, url), gateway.Options{})
	do(t, client, request(t.Context(), body(true, "hi")))
	got := totals(t, g)
	want := (10*3 + 30*15 + 40*3.75 + 60*6) / 1e6
	if got.Usage.OutputTokens != 30 || got.CostUSD < want-1e-12 || got.CostUSD > want+1e-12 || got.Cut != 0 {
		t.Errorf("totals %+v, want $%f", got, want)
	}
}

func TestCompressedAnswersAreRefused(t *testing.T) {
	url, _ := seen(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Encoding", "br") })
	_, client := open(t, lease(t, url), gateway.Options{})
	response, text := do(t, client, request(t.Context(), body(true, "hi")))
	if response.StatusCode != http.StatusBadGateway || response.Header.Get("Content-Encoding") != "" {
		t.Errorf("%s %s", response.Status, text)
	}
}

// A limit that was reached stops the calls that start after it, of subagents too.
func TestBudgetHoldsForConcurrentCalls(t *testing.T) {
	server, url := upstream(t, greeting, scripted.Options{})
	l := lease(t, url)
	l.Budgets = []gateway.Budget{{Name: "b", LimitUSD: 10 * 0.004578}}
	g, client := open(t, l, gateway.Options{})
	var refused atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				before := totals(t, g).CostUSD
				response, _ := do(t, client, request(t.Context(), body(false, "hi")))
				if response.StatusCode == http.StatusOK && before >= l.Budgets[0].LimitUSD {
					t.Error("a call went out after the limit was reached")
				}
				if response.StatusCode == http.StatusForbidden {
					refused.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := server.Served().Calls; n < 10 || n > 18 || int64(n)+refused.Load() != 80 {
		t.Errorf("%d calls, %d refused", n, refused.Load())
	}
}
