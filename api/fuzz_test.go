package api_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"claude-runner/agent"
	"claude-runner/session"
)

// gate lets a world's tasks in no further than to the credentials, which come
// after the request is read and checked.
func gate(s *setup) {
	s.session.ModelAPIs = func() ([]agent.ModelAPI, error) {
		return nil, &session.Error{Code: session.CodeNoCredentials, Message: "none"}
	}
}

// FuzzSubmit posts any bytes: a body that is not right is the client's fault,
// and said so in the one shape of errors.
func FuzzSubmit(f *testing.F) {
	for _, seed := range []string{
		`{"sessionId":"s","message":"m"}`, `{"sessionId":"s","message":"m","env":{"A":"1"},"context":null}`,
		`{"sessionId":"s","sessionId":"s"}`, "\xff", "{\"a\":\n1e999}", `{"env":{"\ud800":""}}`, "[[[[", `{"":{"":""}}`,
	} {
		f.Add([]byte(seed))
	}
	w := newWorld(f, gate)
	f.Fuzz(func(t *testing.T, body []byte) {
		a := w.with(t).do(http.MethodPost, "/task", string(body))
		var got struct{ Error, Code string }
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || got.Error == "" {
			t.Fatalf("%q: %d %s, %v", body, a.status, a.body, err)
		}
		valid := got.Code == "no_credentials" && a.status == http.StatusServiceUnavailable
		if !valid && (a.status != http.StatusBadRequest || got.Code != "invalid_request") {
			t.Errorf("%q: %d %s", body, a.status, a.body)
		}
		if valid && !json.Valid(body) {
			t.Errorf("%q was taken", body)
		}
	})
}

// FuzzSessionID sends any string as a session's id, in a path and in a body:
// what ValidID refuses is refused, and nothing is made of it.
func FuzzSessionID(f *testing.F) {
	for _, seed := range []string{"user-1", "a+b@c:d", "..", "../x", "a/b", ".", "", "%2e", "\x00", "é", "-a", "a b", "a\\b"} {
		f.Add(seed)
	}
	w := newWorld(f, gate)
	f.Fuzz(func(t *testing.T, id string) {
		w := w.with(t)
		valid := session.ValidID(id)
		want := http.StatusBadRequest
		switch {
		case valid:
			want = http.StatusNotFound // no such session
		case id == "":
			want = http.StatusNotFound // no such route
		}
		if a := w.do(http.MethodGet, "/session/"+url.PathEscape(id), ""); a.status != want {
			t.Errorf("%q in a path: %d %s, want %d", id, a.status, a.body, want)
		}
		want = http.StatusBadRequest
		if valid {
			want = http.StatusServiceUnavailable
		}
		if a := w.do(http.MethodPost, "/task", task(id, "m")); a.status != want {
			t.Errorf("%q in a body: %d %s, want %d", id, a.status, a.body, want)
		}
		left, err := os.ReadDir(filepath.Join(w.dir, "sessions"))
		if err != nil || len(left) > 0 {
			t.Errorf("%q made %v, %v", id, left, err)
		}
	})
}
