package gateway_test

import (
	"net/http"
	"net/url"
	"testing"

	"claude-runner/agent"
	"claude-runner/agent/gateway"
	"claude-runner/agent/scripted"
)

// In a rehearsal the gateway answers itself: no Messages API is asked, nothing is
// counted, and the forward proxy leads nowhere. The lease of a task takes its place
// on the same connections.
func TestRehearsal(t *testing.T) {
	server, base := upstream(t, greeting, scripted.Options{})
	l := lease(t, base)
	rehearsal := gateway.Lease{ID: l.ID, Socket: l.Socket, Token: l.Token, Rehearsal: true}
	g, client := open(t, rehearsal, gateway.Options{})
	for _, stream := range []bool{true, false} {
		response, text := do(t, client, request(t.Context(), body(stream, agent.RehearsalQuestion)))
		if response.StatusCode != http.StatusOK {
			t.Fatalf("%s %s", response.Status, text)
		}
		contains(t, text, "Yes.", "end_turn", model)
		response, text = do(t, client, request(t.Context(), body(stream, "hi")))
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("another question: %s %s", response.Status, text)
		}
		contains(t, text, "invalid_request_error")
	}
	for _, path := range []string{"/v1/messages/count_tokens", "/v1/messages"} {
		r := request(t.Context(), body(false, "hi"))
		r.URL.Path = path
		r.Header.Set("X-Api-Key", "another")
		if response, text := do(t, client, r); response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s with another token: %s %s", path, response.Status, text)
		}
	}
	counting := request(t.Context(), body(false, "hi"))
	counting.URL.Path = "/v1/messages/count_tokens"
	_, text := do(t, client, counting)
	contains(t, text, "input_tokens")
	if n := server.Served().Calls; n != 0 {
		t.Errorf("the Messages API is asked %d times", n)
	}
	if err := g.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	_, text = do(t, client, request(t.Context(), body(true, "hi")))
	contains(t, text, "hi")
	if got := totals(t, g); got.Calls != 1 || got.Usage == (agent.Usage{}) {
		t.Errorf("totals %+v", got)
	}
}

// What an agent without a task could say to the outside goes nowhere.
func TestRehearsalLeadsNowhere(t *testing.T) {
	w := newWorld(t, false)
	l := lease(t)
	l.Rehearsal = true
	_, client := open(t, l, gateway.Options{Dial: w.dial})
	client.Transport.(*http.Transport).Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://gateway") }
	for _, target := range []string{"http://93.184.215.14/", "https://93.184.215.14/"} {
		response, err := client.Get(target)
		if err == nil {
			_ = response.Body.Close()
		}
		if len(w.calls()) > 0 || err == nil && response.StatusCode != http.StatusForbidden {
			t.Errorf("%s is let through: %v, %v; dialed %v", target, response, err, w.calls())
		}
	}
}
