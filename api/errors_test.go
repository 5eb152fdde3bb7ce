package api_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"claude-runner/agent"
	"claude-runner/api"
	"claude-runner/session"
)

// TestStatusOfEveryCode reads every constant Code… of the packages that fail
// from their source, so that a new one can't be forgotten.
func TestStatusOfEveryCode(t *testing.T) {
	found := 0
	for _, dir := range []string{"../session", "../agent", "."} {
		for name, code := range codesIn(t, dir) {
			found++
			status := api.Status(session.Code(code))
			own := code == string(session.CodeInternal) || code == string(session.CodeStorage)
			if own != (status == http.StatusInternalServerError) || status < 400 {
				t.Errorf("%s: %s has status %d", dir, name, status)
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d codes found", found)
	}
	if got := api.Status("unheard_of"); got != http.StatusInternalServerError {
		t.Errorf("an unknown code has status %d", got)
	}
}

// codesIn returns the constants Code… of a package: name to value.
func codesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Names) != 1 || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Code") {
				return true
			}
			name := spec.Names[0].Name
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
				out[name], err = strconv.Unquote(lit.Value)
			} else if name == "CodeBudget" {
				out[name] = string(agent.CodeBudget)
			} else {
				t.Errorf("%s: %s is no literal", path, name)
			}
			return err == nil
		})
	}
	return out
}

// TestInternal holds what is said of a failure that nobody foresaw: a sentence
// with a request id to the client, the rest to the log.
func TestInternal(t *testing.T) {
	w := newWorld(t, func(s *setup) {
		s.session.ModelAPIs = func() ([]agent.ModelAPI, error) { panic("a detail of the inside") }
	})
	a := w.post("s", "echo")
	got := a.object(t)
	id, _ := got["requestId"].(string)
	if a.status != http.StatusInternalServerError || got["code"] != "internal" || id == "" || !strings.Contains(got["error"].(string), id) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if strings.Contains(a.body, "detail") {
		t.Errorf("the client is told: %s", a.body)
	}
	if logged := w.logs.String(); !strings.Contains(logged, "a detail of the inside") || !strings.Contains(logged, id) || !strings.Contains(logged, "tasks.go") {
		t.Errorf("the log lacks the panic, its id or its place: %s", logged)
	}
	if a := w.do(http.MethodGet, "/health", ""); a.status != http.StatusOK {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}

func TestStorageFailure(t *testing.T) {
	w := newWorld(t)
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/sessions", "/task/1", "/tasks", "/usage", "/session/s/events"} {
		a := w.do(http.MethodGet, path, "")
		if got := a.object(t); a.status != http.StatusInternalServerError || got["code"] != "storage_failed" || got["requestId"] == nil || strings.Contains(a.body, "sql") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if logged := w.logs.String(); !strings.Contains(logged, "database is closed") {
		t.Errorf("the log lacks the cause: %s", logged)
	}
}

func TestRequestID(t *testing.T) {
	w := newWorld(t)
	uuid := regexp.MustCompile(`^[0-9a-f-]{36}$`)
	for sent, kept := range map[string]bool{"abc-1:2.3_/+=@": true, "": false, "has space": false, strings.Repeat("x", 129): false, `"><script>`: false} {
		got := w.do(http.MethodGet, "/health", "", "X-Request-Id", sent).header.Get("X-Request-Id")
		if kept && got != sent || !kept && !uuid.MatchString(got) {
			t.Errorf("%q: answered with %q", sent, got)
		}
	}
}

// TestRequestLog holds what a request's line has, and what it must not have.
func TestRequestLog(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.api.APIKeys = []agent.Secret{"key-8675309"} })
	w.do(http.MethodPost, "/task", task("s", "echo the-message"), "X-Request-Id", "id-1")
	w.do(http.MethodGet, "/tasks?cursor=in-the-query", "", "X-Request-Id", "id-2", "Cookie", "in-a-cookie=1")
	eventually(t, "the lines are written", func() bool { return strings.Contains(w.logs.String(), "id-2") })
	logged := w.logs.String()
	for _, secret := range []string{"the-message", "in-the-query", "in-a-cookie", "key-8675309"} {
		if strings.Contains(logged, secret) {
			t.Errorf("the log has %q: %s", secret, logged)
		}
	}
	line := regexp.MustCompile(`"msg":"request","method":"POST","path":"/task","status":200,"duration":\d+,"bytes":\d+,"request_id":"id-1","remote":"127.0.0.1"`)
	if !line.MatchString(logged) {
		t.Errorf("no line %s in %s", line, logged)
	}
}
