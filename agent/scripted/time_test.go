package scripted_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"claude-runner/agent/scripted"
)

func TestDelays(t *testing.T) {
	_, url := start(t, parse(t, `
rules:
  - delay: 30ms
    chunk_delay: 20ms
    answer: [{text: abcd, chunk: 1}]`), scripted.Options{})
	began := time.Now()
	_, body := post(t, url, with(question("a"), "stream", true))
	if took := time.Since(began); took < 90*time.Millisecond {
		t.Errorf("30 ms and three times 20 ms took %v", took)
	}
	if !strings.Contains(body, "message_stop") {
		t.Errorf("the stream is not whole: %s", body)
	}
}

// What is said before a pause arrives before it: the client reads the first
// delta, and leaves, while the second is an hour away.
func TestDeltasArriveAsTheyAreSaid(t *testing.T) {
	server, url := start(t, parse(t, "rules: [{chunk_delay: 1h, answer: [{text: ab, chunk: 1}]}]"), scripted.Options{})
	response := open(t, t.Context(), url, true)
	readUntil(t, response.Body, `"text":"a"`)
	response.Body.Close()
	waitFor(t, func() bool { return server.Served().Broken == 1 })
}

func TestHangEndsWhenTheClientLeaves(t *testing.T) {
	for name, script := range map[string]string{
		"headers": "rules: [{fault: {kind: hang, at: headers}}]",
		"body":    "rules: [{answer: [{text: a}], fault: {kind: hang, at: 1}}]",
		"delay":   "rules: [{delay: 1h, answer: [{text: a}]}]",
	} {
		for _, stream := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				asked := make(chan struct{})
				server, url := start(t, parse(t, script), scripted.Options{OnRequest: func(scripted.Request) { close(asked) }})
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				var wg sync.WaitGroup
				wg.Go(func() {
					response, err := send(ctx, url, stream)
					if err != nil {
						return
					}
					defer response.Body.Close()
					if name != "body" {
						t.Errorf("got headers: %s", response.Status)
					}
					if _, err := io.ReadAll(response.Body); err == nil {
						t.Error("the body ended well")
					}
				})
				<-asked
				leave()
				wg.Wait()
				waitFor(t, func() bool { return server.Served().Broken == 1 })
			})
		}
	}
}

func TestCloseEndsHangs(t *testing.T) {
	for name, script := range map[string]string{
		"headers": "rules: [{fault: {kind: hang, at: headers}}]",
		"body":    "rules: [{answer: [{text: a}], fault: {kind: hang, at: 1}}]",
		"delay":   "rules: [{delay: 1h, answer: [{text: a}]}]",
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 3)
			server, url := start(t, parse(t, script), scripted.Options{OnRequest: func(scripted.Request) { asked <- struct{}{} }})
			handler := httptest.NewServer(server)
			var wg sync.WaitGroup
			for _, url := range []string{url, url, handler.URL} {
				wg.Go(func() {
					response, err := send(t.Context(), url, true)
					if err == nil {
						_, err = io.ReadAll(response.Body)
						response.Body.Close()
					}
					if err == nil {
						t.Error("the answer ended well")
					}
				})
			}
			for range 3 {
				<-asked
			}
			if err := server.Close(); err != nil {
				t.Error(err)
			}
			wg.Wait()
			handler.Close()
			if err := server.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
			if _, err := server.Listen("127.0.0.1:0"); err == nil {
				t.Error("a closed server listens")
			}
			if _, err := net.DialTimeout("tcp", strings.TrimPrefix(url, "http://"), time.Second); err == nil {
				t.Error("the port is still open")
			}
		})
	}
}

func send(ctx context.Context, url string, stream bool) (*http.Response, error) {
	body, err := json.Marshal(with(question("hi"), "stream", stream))
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/messages", strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(request)
}

func open(t *testing.T, ctx context.Context, url string, stream bool) *http.Response {
	t.Helper()
	response, err := send(ctx, url, stream)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func readUntil(t *testing.T, r io.Reader, want string) {
	t.Helper()
	var got strings.Builder
	buffer := make([]byte, 1)
	for !strings.HasSuffix(got.String(), want) {
		if _, err := io.ReadFull(r, buffer); err != nil {
			t.Fatalf("read %q: %v", got.String(), err)
		}
		got.Write(buffer)
	}
}

// waitFor polls until the condition holds.
func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatal("waited 10 s in vain")
}
