package api_test

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/api"
	"claude-runner/api/apitest"
)

var routeParameter = regexp.MustCompile(`:(\w+)`)

func TestEveryRouteIsDescribed(t *testing.T) {
	var served, described []string
	for _, r := range newWorld(t).server.Routes() {
		if !strings.HasPrefix(r, http.MethodHead) { // every GET has it
			served = append(served, routeParameter.ReplaceAllString(r, "{$1}"))
		}
	}
	for path, item := range apitest.Description(t).Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" "+path)
		}
	}
	slices.Sort(served)
	slices.Sort(described)
	if diff := cmp.Diff(served, described); diff != "" {
		t.Errorf("routes (-served +described):\n%s", diff)
	}
}

func TestEveryCodeIsDescribed(t *testing.T) {
	var codes, described []string
	for _, dir := range []string{"../session", "../agent", "."} {
		for _, code := range codesIn(t, dir) {
			codes = append(codes, code)
		}
	}
	for _, code := range apitest.Description(t).Components.Schemas["Code"].Value.Enum {
		described = append(described, code.(string))
	}
	slices.Sort(codes)
	slices.Sort(described)
	if diff := cmp.Diff(slices.Compact(codes), described); diff != "" {
		t.Errorf("codes (-known +described):\n%s", diff)
	}
}

func TestDescriptionIsServed(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.api.APIKeys = []agent.Secret{"key"} })
	a := w.do(http.MethodGet, "/openapi.yaml", "", "Authorization", "")
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/yaml" || a.body != string(api.Description()) {
		t.Errorf("%d %s, %d bytes", a.status, a.header.Get("Content-Type"), len(a.body))
	}
}

// TestDocs holds the page: it has all that is described, and asks for nothing
// from elsewhere.
func TestDocs(t *testing.T) {
	w := newWorld(t)
	a := w.do(http.MethodGet, "/docs", "")
	if a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
		t.Fatalf("%d %s %s", a.status, a.header.Get("Content-Type"), a.body)
	}
	for path, item := range apitest.Description(t).Paths.Map() {
		for method, op := range item.Operations() {
			for _, want := range []string{
				`<h3 id="` + op.OperationID + `"><span class="method ` + strings.ToLower(method) + `">` + method + `</span> <code>` + path + `</code>`,
				`<a href="#` + op.OperationID + `">`,
			} {
				if !strings.Contains(a.body, want) {
					t.Errorf("there is no %s", want)
				}
			}
		}
	}
	for _, link := range regexp.MustCompile(`(?:href|src)="([^"]*)"`).FindAllStringSubmatch(a.body, -1) {
		name, anchor := strings.CutPrefix(link[1], "#")
		if anchor && !strings.Contains(a.body, `id="`+name+`"`) || !anchor && link[1] != "openapi.yaml" {
			t.Errorf("there is a link to %s", link[1])
		}
	}
	for _, unwanted := range []string{"<script", "ZgotmplZ", "&lt;nil&gt;", "map["} {
		if strings.Contains(a.body, unwanted) {
			t.Errorf("the page has %s", unwanted)
		}
	}
}

// TestCheckSeesDrift holds the check that holds all others.
func TestCheckSeesDrift(t *testing.T) {
	json := http.Header{"Content-Type": {"application/json"}, "X-Request-Id": {"id"}}
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		header             http.Header
		answer             string
		ok                 bool
	}{
		"as described":    {"GET", "/livez", "", 200, json, `{"status":"ok"}`, true},
		"a field more":    {"GET", "/livez", "", 200, json, `{"status":"ok","more":1}`, false},
		"a field less":    {"GET", "/livez", "", 200, json, `{}`, false},
		"another type":    {"GET", "/sessions", "", 200, json, `{}`, false},
		"another status":  {"GET", "/livez", "", 418, json, `{"status":"ok"}`, false},
		"no request id":   {"GET", "/livez", "", 200, http.Header{"Content-Type": {"application/json"}}, `{"status":"ok"}`, false},
		"another content": {"GET", "/livez", "", 200, http.Header{"Content-Type": {"text/plain"}, "X-Request-Id": {"id"}}, `ok`, false},
		"unknown route":   {"GET", "/new", "", 200, json, `{}`, false},
		"no such route":   {"GET", "/new", "", 404, json, `{"error":"none","code":"route_not_found"}`, true},
		"unknown code":    {"GET", "/new", "", 404, json, `{"error":"none","code":"new"}`, false},
		"unknown query":   {"GET", "/tasks?new=1", "", 200, json, `{"tasks":[]}`, false},
		"bad query":       {"GET", "/tasks?limit=0", "", 200, json, `{"tasks":[]}`, false},
		"refused query":   {"GET", "/tasks?limit=0", "", 400, json, `{"error":"limit","code":"invalid_request"}`, true},
		"bad body taken":  {"POST", "/task", `{"sessionId":"s"}`, 503, json, `{"error":"none","code":"no_backend"}`, false},
		"good body taken": {"POST", "/task", `{"sessionId":"s","message":"m"}`, 503, json, `{"error":"none","code":"no_backend"}`, true},
	} {
		req, err := http.NewRequest(c.method, "http://localhost"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		seen := &reporter{TB: t}
		apitest.Check(seen, req, c.status, c.header, []byte(c.answer))
		if seen.failed == c.ok {
			t.Errorf("%s: found drift: %v", name, seen.failed)
		}
	}
	for event, ok := range map[string]bool{
		`{"type":"text","seq":1,"time":"2026-01-31T08:00:00Z","sessionId":"s","taskId":"t","text":"x"}`:         true,
		`{"type":"text","seq":1,"time":"2026-01-31T08:00:00Z","sessionId":"s","taskId":"t","text":"x","new":1}`: false,
		`{"type":"new","seq":1,"time":"2026-01-31T08:00:00Z","sessionId":"s","taskId":"t"}`:                     false,
		`{"type":"resync","seq":9,"time":"2026-01-31T08:00:00Z","sessionId":"s"}`:                               true,
	} {
		seen := &reporter{TB: t}
		apitest.CheckSchema(seen, "StreamEvent", []byte(event))
		if seen.failed == ok {
			t.Errorf("%s: found drift: %v", event, seen.failed)
		}
	}
}

// reporter sees whether a check fails.
type reporter struct {
	testing.TB
	failed bool
}

func (r *reporter) Errorf(string, ...any) { r.failed = true }
