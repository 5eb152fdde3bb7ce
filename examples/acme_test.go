package examples_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// acmeToken is nothing that a shell or curl would leave alone by accident.
const acmeToken = `t0ken-'"$HOME`

func TestAcmeTool(t *testing.T) {
	api := startAcme(t)
	long := strings.Repeat("é", 100)
	for _, tc := range []struct {
		name  string
		args  []string
		stdin string
		env   []string // instead of the usual
		code  int
		want  map[string]any // of the answer, or of its only element
		err   string         // in the error's text
	}{
		{name: "look up", args: []string{"user", "lookup", "alice@startup.io"},
			want: map[string]any{"id": "usr_1001", "name": "Alice Chen", "plan": "growth"}},
		{name: "look up with characters that URLs and shells read",
			args: []string{"user", "lookup", "zoe.o'neill+acme@studio.example"}, want: map[string]any{"id": "usr_1003"}},
		{name: "usage", args: []string{"user", "usage", "usr_1001"},
			want: map[string]any{"planName": "Growth", "callsIncluded": 1000.0, "callsUsed": 812.0, "callsRemaining": 188.0}},
		{name: "tickets", args: []string{"tickets", "list", "usr_1001"}, want: map[string]any{"id": "tkt_1", "status": "closed"}},
		{name: "no tickets", args: []string{"tickets", "list", "usr_1002"}},

		{name: "ticket", args: []string{"tickets", "create", "usr_1001", "Help", "It broke."},
			want: map[string]any{"subject": "Help", "text": "It broke.", "status": "open", "userId": "usr_1001"}},
		{name: "ticket from stdin", args: []string{"tickets", "create", "usr_1001", "Help"}, stdin: "two\nlines\n",
			want: map[string]any{"text": "two\nlines"}},
		{name: "ticket that tries to break out", args: []string{"tickets", "create", "usr_1001", `@/etc/passwd $(id) & status=closed`, "`id`\n\"'; \\ %41 é <x>"},
			want: map[string]any{"subject": "@/etc/passwd $(id) & status=closed", "text": "`id`\n\"'; \\ %41 é <x>", "status": "open"}},
		{name: "ticket that is an option", args: []string{"tickets", "create", "usr_1001", "--output", "-o"},
			want: map[string]any{"subject": "--output", "text": "-o"}},
		{name: "ticket as long as may be", args: []string{"tickets", "create", "usr_1001", long + long, strings.Repeat("x", 10_000)},
			want: map[string]any{"subject": long + long}},
		{name: "subject too long", args: []string{"tickets", "create", "usr_1001", long + long + "é", "x"}, code: 2, err: "at most 200 characters"},
		{name: "text too long", args: []string{"tickets", "create", "usr_1001", "x"}, stdin: strings.Repeat("x", 20_000), code: 2, err: "at most 10000 characters"},
		{name: "argument too long", args: []string{"tickets", "create", "usr_1001", "x"}, stdin: strings.Repeat("x", 200_000), code: 2, err: "longer than 60000 bytes"},
		{name: "ticket without text", args: []string{"tickets", "create", "usr_1001", "x"}, code: 2, err: "argument is empty"},
		{name: "ticket of blanks", args: []string{"tickets", "create", "usr_1001", "x", " \n"}, code: 2, err: "needs a subject and a text"},

		{name: "nobody", args: []string{"user", "lookup", "nobody@nowhere.example"}, code: 3, err: "no such user"},
		{name: "one address is not two", args: []string{"user", "lookup", "x&email=alice@startup.io"}, code: 3, err: "no such user"},
		{name: "usage of nobody", args: []string{"user", "usage", "usr_9"}, code: 3, err: "no such user"},
		{name: "id that leaves its path", args: []string{"user", "usage", "../users?email=alice@startup.io#"}, code: 2, err: "no user id"},
		{name: "id with a newline", args: []string{"tickets", "list", "usr_1001\nx"}, code: 2, err: "no user id"},
		{name: "option for an id", args: []string{"user", "usage", "-K/etc/passwd"}, code: 2, err: "no user id"},
		{name: "nothing", code: 2, err: "unknown command"},
		{name: "unknown command", args: []string{"user", "delete", "usr_1001"}, code: 2, err: "unknown command"},
		{name: "too few", args: []string{"user", "lookup"}, code: 2, err: "want: acme-cli.sh user lookup EMAIL"},
		{name: "too many", args: []string{"user", "lookup", "alice@startup.io", "x"}, code: 2, err: "wrong number"},
		{name: "empty", args: []string{"user", "lookup", ""}, code: 2, err: "argument is empty"},

		{name: "wrong token", args: []string{"user", "lookup", "alice@startup.io"}, env: []string{"ACME_API_TOKEN=x"}, code: 4, err: "missing or wrong"},
		{name: "token with a header in it", args: []string{"user", "lookup", "a@b"}, env: []string{"ACME_API_TOKEN=x\nX-Admin: 1"}, code: 4, err: "holds spaces"},
		{name: "no token", args: []string{"user", "lookup", "a@b"}, env: []string{"ACME_API_TOKEN="}, code: 4, err: "ACME_API_TOKEN is not set"},
		{name: "no URL", args: []string{"user", "lookup", "a@b"}, env: []string{"ACME_API_URL="}, code: 5, err: "ACME_API_URL is not set"},
		{name: "another scheme", args: []string{"user", "lookup", "a@b"}, env: []string{"ACME_API_URL=file:///etc"}, code: 5, err: "http or https"},
		{name: "a URL that ends in a slash", args: []string{"user", "lookup", "alice@startup.io"}, env: []string{"ACME_API_URL=" + api + "/"},
			want: map[string]any{"id": "usr_1001"}},
		{name: "nobody listens", args: []string{"user", "lookup", "a@b"}, env: []string{"ACME_API_URL=http://127.0.0.1:1"}, code: 6, err: "can not be reached"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env := append([]string{"ACME_API_URL=" + api, "ACME_API_TOKEN=" + acmeToken}, tc.env...)
			got := runTool(t, env, tc.stdin, tc.args...)
			got.check(t, tc.code, tc.err)
			if tc.code == 0 {
				contains(t, got.stdout, tc.want)
			}
		})
	}
}

func TestAcmeToolWithBrokenAPI(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		code   int
		err    string
	}{
		"fails in its own words":  {500, `{"error":"database is down"}`, 5, "database is down"},
		"fails in a proxy's":      {502, "<html>Bad Gateway</html>", 5, "status 502"},
		"says nothing":            {200, "", 5, "status 200"},
		"forbids":                 {403, `{"error":"not yours"}`, 4, "not yours"},
		"has a limit":             {429, `{"error":"slow down"}`, 5, "slow down"},
		"sends elsewhere":         {302, "", 5, "status 302"},
		"ends its text in spaces": {404, "{\"error\":\"none\"}\r\n\n", 3, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "http://127.0.0.1:1/")
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			defer api.Close()
			got := runTool(t, []string{"ACME_API_URL=" + api.URL, "ACME_API_TOKEN=x"}, "", "user", "usage", "usr_1001")
			got.check(t, tc.code, tc.err)
		})
	}
}

func TestAcmeToolHelp(t *testing.T) {
	for _, arg := range []string{"help", "--help", "-h"} {
		got := runTool(t, nil, "", arg)
		if got.code != 0 || !strings.Contains(got.stdout, "user lookup EMAIL") {
			t.Errorf("%s: exit code %d, %q", arg, got.code, got.stdout)
		}
	}
}

// Every user of a machine sees the arguments of its processes.
func TestAcmeToolKeepsTokenOutOfArguments(t *testing.T) {
	api := startAcme(t)
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is missing")
	}
	dir := t.TempDir()
	seen := filepath.Join(dir, "arguments")
	spy := fmt.Sprintf("#!/bin/sh\nprintf '%%s\\n' \"$@\" >>%s\nexec %s \"$@\"\n", seen, curl)
	if err := os.WriteFile(filepath.Join(dir, "curl"), []byte(spy), 0o755); err != nil {
		t.Fatal(err)
	}
	env := []string{"ACME_API_URL=" + api, "ACME_API_TOKEN=" + acmeToken, "PATH=" + dir + ":" + os.Getenv("PATH")}
	runTool(t, env, "", "user", "lookup", "alice@startup.io").check(t, 0, "")
	arguments, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(arguments, []byte("alice@startup.io")) || bytes.Contains(arguments, []byte(acmeToken)) {
		t.Errorf("curl was called with %q", arguments)
	}
}

func TestAcmeAPIWantsToken(t *testing.T) {
	api := startAcme(t)
	for _, path := range []string{"/v1/users?email=alice@startup.io", "/v1/users/usr_1001/usage", "/nowhere"} {
		response, err := http.Get(api + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: status %d", path, response.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()

	cmd := exec.Command(acmeBinary(t), "--listen", "127.0.0.1:0")
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "ACME_API_TOKEN is empty") {
		t.Errorf("started without a token: %v, %s", err, out)
	}
}

// toolRun is how a run of the tool ended.
type toolRun struct {
	code           int
	stdout, stderr string
}

// check holds a run against the tool's contract: a code, JSON on one of the
// two outputs, nothing on the other.
func (r toolRun) check(t *testing.T, code int, message string) {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d; stdout %q, stderr %q", r.code, code, r.stdout, r.stderr)
	}
	if code == 0 {
		if !json.Valid([]byte(r.stdout)) || r.stderr != "" {
			t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
		}
		return
	}
	var failure struct{ Error string }
	if err := json.Unmarshal([]byte(r.stderr), &failure); err != nil || r.stdout != "" {
		t.Errorf("%v; stdout %q, stderr %q", err, r.stdout, r.stderr)
	}
	if !strings.Contains(failure.Error, message) {
		t.Errorf("error %q, want one with %q", failure.Error, message)
	}
}

// contains holds the JSON of one object, or of a list of at most one, against
// the fields that it should have.
func contains(t *testing.T, text string, want map[string]any) {
	t.Helper()
	var got map[string]any
	var list []map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatal(err)
		}
		if len(list) != min(1, len(want)) {
			t.Fatalf("%d elements in %s", len(list), text)
		}
		if len(list) == 1 {
			got = list[0]
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			delete(got, key)
		}
	}
	if diff := cmp.Diff(want, got); len(want) > 0 && diff != "" {
		t.Error(diff)
	}
}

// runTool runs the support agent's tool as the agent does, from its workspace.
func runTool(t *testing.T, env []string, stdin string, args ...string) toolRun {
	t.Helper()
	for _, program := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is missing", program)
		}
	}
	cmd := exec.Command("tools/acme-cli.sh", args...)
	cmd.Dir = filepath.Join("support-agent", "agent")
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return toolRun{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// startAcme runs the stand-in for AcmeApp's API and returns its address.
func startAcme(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(acmeBinary(t), "--listen", "127.0.0.1:0")
	cmd.Env = []string{"ACME_API_TOKEN=" + acmeToken}
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("acme-api after SIGTERM: %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "AcmeApp API at ")
	if err != nil || !ok {
		t.Fatalf("acme-api printed %q: %v", line, err)
	}
	return address
}

// acmeBinary builds the stand-in; the compiler's cache makes it quick.
func acmeBinary(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "acme-api")
	if out, err := exec.Command("go", "build", "-o", binary, "./support-agent/acme-api").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}
