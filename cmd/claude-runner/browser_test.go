package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent/scripted"
)

// TestBrowser holds that web pages in a real browser can follow a task: one with
// an EventSource whose connection breaks, and the README's client. A page that
// the configuration does not name can do nothing.
func TestBrowser(t *testing.T) {
	program := browser(t)
	pages := servePages(t)
	_, modelURL := startModel(t, "testdata/script.yaml", scripted.Options{})
	env := with(variables(t, "local", modelURL), "CLAUDE_RUNNER_SERVER__CORS_ORIGINS", pages.origin("app.example"))
	p := startProgram(t, loadConfig(t, testConfig, env))
	requireAgent(t, p, "local")

	t.Run("EventSource", func(t *testing.T) {
		c, wire := p.chat(t, ""), startWire(t, "tcp", strings.TrimPrefix(p.base, "http://"))
		browse(t, program, pages.follow("app.example", "http://"+wire.address(), c.id, hold("")))
		if connected := pages.event(t, "connected"); connected.id != "" {
			t.Errorf("connected has the id %q", connected.id)
		}
		submitted := pages.until(t, "submitted")
		if submitted.ID != "202" || !strings.HasPrefix(submitted.Text, "/task/") {
			t.Errorf("the page's task: %+v", submitted)
		}
		c.await("started")
		pages.event(t, "tool_start")
		wire.cut()
		c.letGo()
		pages.until(t, "cut")
		pages.event(t, "task_complete")
		if sent := wire.sent(); strings.Count(sent, "Last-Event-ID: ") != 1 {
			t.Errorf("the browser did not say once which event it had last:\n%s", sent)
		}
		pages.checkComplete(t, c)
	})
	t.Run("the README's client", func(t *testing.T) {
		c := p.chat(t, "")
		browse(t, program, pages.origin("app.example")+"/client?"+url.Values{"stream": {"ws" + strings.TrimPrefix(p.base, "http") + "/stream/" + c.id}}.Encode())
		pages.until(t, "open")
		r := c.ask("show everything")
		want := "I look around. \n→ Bash {\"command\":\"echo from the tool\",\"description\":\"Say something\"}\nThe tool said: from the tool\n" + string(r.Output)
		var shown string
		for shown != want {
			s := pages.until(t, "shown")
			if shown = s.Text; !strings.HasPrefix(want, shown) {
				t.Fatalf("the page shows %q, want %q", shown, want)
			}
		}
	})
	t.Run("a foreign page", func(t *testing.T) {
		c := p.chat(t, "")
		browse(t, program, pages.follow("other.example", p.base, c.id, "say: hi"))
		pages.until(t, "closed")
		pages.until(t, "refused")
		if r, err := p.do(t.Context(), http.MethodGet, "/session/"+c.id, ""); err != nil || r.status != http.StatusNotFound {
			t.Errorf("its session: %d %s, %v", r.status, r.body, err)
		}
	})
}

// browser names a Chromium. Without one the test is skipped, or fails in CI.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("there is no Chromium here, which CI must have: .ci/engines install")
	}
	t.Skip("there is no Chromium here: .ci/engines install, or your system's package chromium")
	return ""
}

// browse shows a page in a browser of its own until the test ends.
func browse(t *testing.T, program, page string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "browser")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
		"--log-level=3", "--user-data-dir="+dir, "--host-resolver-rules=MAP *.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-port=0", page)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Errorf("end the browser: %v", err)
		}
		_ = cmd.Wait() // it says that it was killed
		eventually(t, 10*time.Second, "the browser's last process is gone and its folder removed", func() bool { return os.RemoveAll(dir) == nil })
		if t.Failed() {
			t.Logf("the browser said:\n%s", said.String())
		}
	})
}

// sighting is what a page tells of itself.
type sighting struct {
	Page, Kind, Text, ID string
}

// shownEvent is an event that a page has got.
type shownEvent struct {
	id  string // as the browser has it
	raw string
}

// pageServer serves the pages of a product, and collects what they see.
type pageServer struct {
	*httptest.Server
	seen   chan sighting
	events []shownEvent // that until has passed
}

func servePages(t *testing.T) *pageServer {
	t.Helper()
	client := readmeClient(t)
	s := &pageServer{seen: make(chan sighting, 1000)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /follow", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "testdata/pages/follow.html") })
	mux.HandleFunc("GET /client", func(w http.ResponseWriter, r *http.Request) {
		page := strings.Replace(client, "ws://localhost:3456/stream/user-123", r.URL.Query().Get("stream"), 1)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if _, err := io.WriteString(w, page+watchClient); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("POST /seen", func(_ http.ResponseWriter, r *http.Request) {
		var one sighting
		if err := json.NewDecoder(r.Body).Decode(&one); err != nil {
			t.Error(err)
		}
		s.seen <- one
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// readmeClient is the page that the README gives as an example.
func readmeClient(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```html\n")
	page, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("README.md has no example in HTML")
	}
	return page
}

// watchClient is added to the README's page: it tells what the page shows.
const watchClient = `
<script>
  let told = Promise.resolve()
  const tell = (kind, text) => {
    told = told.then(() => fetch('/seen', {method: 'POST', body: JSON.stringify({page: location.hostname, kind, text})}))
  }
  ws.addEventListener('open', () => tell('open', ''))
  new MutationObserver(() => tell('shown', log.textContent)).observe(log, {childList: true})
</script>`

// origin is the pages' own, under a name of its own.
func (s *pageServer) origin(host string) string {
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return "http://" + net.JoinHostPort(host, port)
}

func (s *pageServer) follow(host, base, session, message string) string {
	return s.origin(host) + "/follow?" + strings.ReplaceAll(url.Values{"base": {base}, "session": {session}, "message": {message}}.Encode(), "+", "%20")
}

// until returns the next thing of a kind that a page tells. Events on the way
// are kept.
func (s *pageServer) until(t *testing.T, kind string) sighting {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case one := <-s.seen:
			if one.Kind == "event" {
				s.events = append(s.events, shownEvent{id: one.ID, raw: one.Text})
			}
			if one.Kind == kind {
				return one
			}
		case <-limit:
			t.Fatalf("no page told of %q; events so far: %v", kind, s.events)
		}
	}
}

// event returns the first event of a type that a page has got, or gets.
func (s *pageServer) event(t *testing.T, kind string) shownEvent {
	t.Helper()
	for {
		for _, e := range s.events {
			if strings.Contains(e.raw, `"type":"`+kind+`"`) {
				return e
			}
		}
		s.until(t, "event")
	}
}

// checkComplete holds that the page has got each event of the session once, in
// order, under its number.
func (s *pageServer) checkComplete(t *testing.T, c *chat) {
	t.Helper()
	got := slices.DeleteFunc(slices.Clone(s.events), func(e shownEvent) bool { return strings.Contains(e.raw, `"type":"connected"`) })
	var page struct{ Events []json.RawMessage }
	c.p.get(t, "/session/"+c.id+"/events?after=0&limit=1000", &page)
	var want, have []string
	for _, e := range page.Events {
		want = append(want, string(e))
	}
	for i, e := range got {
		if have = append(have, e.raw); e.id != strconv.Itoa(i+1) {
			t.Errorf("event %d has the id %q: %s", i+1, e.id, e.raw)
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("what the page got (-stored +got):\n%s", diff)
	}
}
