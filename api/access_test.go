package api_test

import (
	"net/http"
	"strings"
	"testing"

	"claude-runner/agent"
)

func TestAPIKeys(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.api.APIKeys = []agent.Secret{"key-one", "key-two"} })
	for header, want := range map[string]int{
		"": 401, "key-one": 401, "Bearer": 401, "Bearer ": 401, "Bearer key-on": 401, "Bearer key-one2": 401,
		"Basic key-one": 401, "Bearer key-one": 200, "bearer key-two": 200,
	} {
		a := w.do(http.MethodGet, "/sessions", "", "Authorization", header)
		if a.status != want {
			t.Errorf("%q: %d %s", header, a.status, a.body)
		}
		if want == 401 && (a.object(t)["code"] != "unauthorized" || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer")) {
			t.Errorf("%q: %v %s", header, a.header, a.body)
		}
	}
	for path, want := range map[string]int{
		"/health": 200, "/sessions": 401, "/session/s": 401, "/task/1": 401, "/tasks": 401, "/agents": 401, "/backends": 401,
		"/metrics": 401, "/stream/s": 401, "/nowhere": 401,
	} {
		if a := w.do(http.MethodGet, path, "", "Authorization", ""); a.status != want {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := w.do(http.MethodPost, "/task", task("s", "echo"), "Authorization", "Bearer no"); a.status != 401 {
		t.Errorf("POST /task: %d %s", a.status, a.body)
	}
	if got := w.do(http.MethodGet, "/sessions", ""); got.body != "[]" {
		t.Errorf("something came of it: %s", got.body)
	}
}

// TestOrigin holds which web pages may call, whatever they call.
func TestOrigin(t *testing.T) {
	listed := func(s *setup) { s.api.CORSOrigins = []string{"https://App.example.com/", "http://other.example:8080"} }
	every := func(s *setup) { s.api.CORSOrigins = []string{"*"} }
	keys := func(s *setup) { s.api.APIKeys = []agent.Secret{"key"} }
	for name, c := range map[string]struct {
		change       func(*setup)
		host, origin string
		code         string // "": allowed
	}{
		"a program":                     {host: "localhost:3456"},
		"this computer's page":          {host: "localhost:3456", origin: "http://localhost:3000"},
		"this computer's page, v4":      {host: "localhost:3456", origin: "http://127.0.0.1:3000"},
		"this computer's page, v6":      {host: "localhost:3456", origin: "https://[::1]"},
		"a foreign page":                {host: "localhost:3456", origin: "https://evil.example", code: "origin_not_allowed"},
		"a page of a like name":         {host: "localhost:3456", origin: "http://localhost.evil.example", code: "origin_not_allowed"},
		"a file":                        {host: "localhost:3456", origin: "null", code: "origin_not_allowed"},
		"an extension":                  {host: "localhost:3456", origin: "chrome-extension://localhost", code: "origin_not_allowed"},
		"nonsense":                      {host: "localhost:3456", origin: "http://%", code: "origin_not_allowed"},
		"a listed page":                 {change: listed, host: "localhost:3456", origin: "https://app.example.com"},
		"a listed page's other scheme":  {change: listed, host: "localhost:3456", origin: "http://app.example.com", code: "origin_not_allowed"},
		"a listed page's other port":    {change: listed, host: "localhost:3456", origin: "http://other.example", code: "origin_not_allowed"},
		"every page":                    {change: every, host: "localhost:3456", origin: "https://evil.example"},
		"a rebound name":                {host: "evil.example:3456", code: "host_not_allowed"},
		"a rebound name's own page":     {host: "evil.example:3456", origin: "http://evil.example:3456", code: "host_not_allowed"},
		"a rebound name, listed":        {change: listed, host: "app.example.com"},
		"its own page with keys":        {change: keys, host: "runner.example.com", origin: "https://runner.example.com"},
		"its other port with keys":      {change: keys, host: "runner.example.com", origin: "https://runner.example.com:1", code: "origin_not_allowed"},
		"its own page by its address":   {host: "192.168.1.5:3456", origin: "http://192.168.1.5:3456"},
		"by the local network's name":   {host: "runner:3456", origin: "http://runner:3456"},
		"from a container of this host": {host: "host.docker.internal:3456"},
		"by address":                    {host: "[::1]:3456"},
	} {
		t.Run(name, func(t *testing.T) {
			change := c.change
			if change == nil {
				change = func(*setup) {}
			}
			w := newWorld(t, change)
			for _, request := range []string{"GET /sessions", "POST /task", "GET /health", "GET /stream/s"} {
				method, path, _ := strings.Cut(request, " ")
				a := w.do(method, path, "", "Host", c.host, "Origin", c.origin)
				code, _ := strings.CutPrefix(a.header.Get("Content-Type"), "application/json")
				if code != "" {
					t.Errorf("%s: %v", request, a.header)
				}
				refused := a.status == http.StatusForbidden && strings.Contains(a.body, `"code":"`+c.code+`"`)
				if refused != (c.code != "") || a.status == http.StatusForbidden && !refused {
					t.Errorf("%s: %d %s, want %q", request, a.status, a.body, c.code)
				}
			}
		})
	}
}

func TestCORS(t *testing.T) {
	w := newWorld(t, func(s *setup) {
		s.api.CORSOrigins = []string{"https://app.example.com"}
		s.api.APIKeys = []agent.Secret{"key"}
	})
	// A preflight carries no key.
	a := w.do(http.MethodOptions, "/task", "", "Origin", "https://app.example.com", "Authorization", "",
		"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type")
	if a.status != http.StatusNoContent || a.header.Get("Access-Control-Allow-Origin") != "https://app.example.com" ||
		!strings.Contains(a.header.Get("Access-Control-Allow-Methods"), "DELETE") || !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("preflight: %d %v", a.status, a.header)
	}
	a = w.do(http.MethodGet, "/nowhere", "", "Origin", "https://app.example.com")
	if a.status != http.StatusNotFound || a.header.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
		t.Errorf("an error: %d %v", a.status, a.header)
	}
	a = w.do(http.MethodOptions, "/task", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST")
	if a.status != http.StatusForbidden || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a foreign preflight: %d %v", a.status, a.header)
	}
}
