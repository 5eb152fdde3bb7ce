package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"claude-runner/agent"
	"claude-runner/agent/gateway"
	"claude-runner/agent/scripted"
)

func TestMain(m *testing.M) {
	if os.Getenv(starterEnv) != "" {
		starter() // does not return
	}
	goleak.VerifyTestMain(m)
}

const (
	token = "worthless-token"
	key   = "sk-ant-the-real-key"
	model = "claude-sonnet-4-6"
)

var prices = map[string]agent.Price{model: {Input: 3, Output: 15, CacheRead: 0.3, CacheWrite: 3.75}}

// upstream serves a script until the test ends.
func upstream(t testing.TB, yaml string, options scripted.Options) (*scripted.Server, string) {
	t.Helper()
	script, err := scripted.Parse([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	if options.RequireKey == "" {
		options.RequireKey = key
	}
	if options.Prices == nil {
		options.Prices = map[string]scripted.Price{model: {Input: 3, Output: 15, CacheRead: 0.3, CacheWrite: 3.75}}
	}
	server := scripted.New(script, options)
	url, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server, url
}

// lease is one that reaches the upstreams, in a folder of the test's.
func lease(t testing.TB, urls ...string) gateway.Lease {
	t.Helper()
	l := gateway.Lease{
		ID: "sandbox", Socket: filepath.Join(t.TempDir(), "s"), Token: token, Meter: "task", Prices: prices,
	}
	for _, url := range urls {
		l.Upstreams = append(l.Upstreams, agent.ModelAPI{BaseURL: url, APIKey: key})
	}
	return l
}

// open opens the lease at a gateway of this process, and returns a client in
// the sandbox's place.
func open(t testing.TB, l gateway.Lease, options gateway.Options) (*gateway.Gateway, *http.Client) {
	t.Helper()
	g := gateway.New(options)
	if err := g.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Shutdown(context.Background()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return g, inside(t, l.Socket)
}

// inside is an HTTP client that speaks to the socket whatever the URL says.
func inside(t testing.TB, socket string) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 64,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func body(stream bool, message string) []byte {
	data, _ := json.Marshal(map[string]any{
		"model": model, "max_tokens": 100, "stream": stream,
		"messages": []any{map[string]any{"role": "user", "content": message}},
	})
	return data
}

// request is a model call with the worthless token.
func request(ctx context.Context, data []byte) *http.Request {
	r, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://model/v1/messages?beta=true", bytes.NewReader(data))
	r.Header.Set("X-Api-Key", token)
	r.Header.Set("Content-Type", "application/json")
	return r
}

// do sends the request and returns the answer and what could be read of it.
func do(t testing.TB, client *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, _ := io.ReadAll(response.Body)
	return response, string(data)
}

func totals(t testing.TB, g interface {
	Totals(context.Context, string) (gateway.Totals, error)
}) gateway.Totals {
	t.Helper()
	out, err := g.Totals(context.Background(), "task")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// waitFor polls until the condition holds.
func waitFor(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("waited 20 s in vain: %s", what)
}

func contains(t testing.TB, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
}

var scriptedOptions scripted.Options

func simpleLease(socket, url string) gateway.Lease {
	return gateway.Lease{
		ID: "sandbox", Socket: socket, Token: token, Meter: "task", Prices: prices,
		Upstreams: []agent.ModelAPI{{BaseURL: url, APIKey: key}},
	}
}
