package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"claude-runner/agent"
	"claude-runner/api"
	"claude-runner/api/apitest"
	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/local"
	"claude-runner/session"
	"claude-runner/session/metrics"
	"claude-runner/session/sqlite"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// database/sql's own goroutine ends a moment after Close.
		goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"),
		// fasthttp keeps the date for as long as the process lives, and looks
		// only every ten seconds whether its pool of workers is closed.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

// world is a server on a port of its own, with a manager, a database and the
// local backend.
type world struct {
	t       testing.TB
	dir     string
	addr    string // host:port
	url     string
	logs    *logs
	manager *session.Manager
	server  *api.Server
	store   *sqlite.Store
	reg     *backends.Registry
	served  chan error
	client  http.Client
	key     string // sent with every request, where there is one
}

// setup is what a test may change of its world.
type setup struct {
	api     api.Options
	session session.Options
	profile agent.Profile
}

// newWorld starts a server with the agents "shell" (the default) and "other".
func newWorld(t testing.TB, changes ...func(*setup)) *world {
	t.Helper()
	return openWorld(t, backendtest.SharedDir(t), changes...)
}

// openWorld is newWorld on a data folder that there is.
func openWorld(t testing.TB, dir string, changes ...func(*setup)) *world {
	t.Helper()
	w := &world{t: t, dir: dir, logs: &logs{}, served: make(chan error, 1)}
	var err error
	if w.store, err = sqlite.Open(context.Background(), filepath.Join(w.dir, "runner.db")); err != nil {
		t.Fatal(err)
	}
	user := backends.User{UID: 10001, GID: 10001}
	log := slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.reg = backends.NewRegistry(local.Kind())
	if err := w.reg.Add("local", &local.Config{}, backends.Options{
		Name: "local", Instance: "api-test", StateDir: filepath.Join(w.dir, "backends"), User: user, Log: log,
	}); err != nil {
		t.Fatal(err)
	}
	profile := agent.DefaultProfile()
	profile.Backend, profile.Limits = []string{"local"}, agent.Limits{}
	measures := metrics.New("v1.2.3")
	s := setup{
		api: api.Options{Log: log, Version: "v1.2.3", Metrics: measures.Handler()},
		session: session.Options{
			Store: w.store, DataDir: w.dir, Backends: w.reg, Driver: shellDriver{}, User: user, Log: log,
			ModelAPIs:   func() ([]agent.ModelAPI, error) { return []agent.ModelAPI{{APIKey: "sk-model-key"}}, nil },
			Concurrency: 4, QueueDepth: 20, Boots: 4, Observers: []session.Observer{measures},
		},
		profile: profile,
	}
	for _, change := range changes {
		change(&s)
	}
	if s.session.Profiles, err = session.LoadProfiles("shell", map[string]agent.Profile{"shell": s.profile, "other": s.profile}); err != nil {
		t.Fatal(err)
	}
	if w.manager, err = session.Open(context.Background(), s.session); err != nil {
		t.Fatal(err)
	}
	measures.Watch(w.manager)
	s.api.Manager = w.manager
	w.server = api.New(s.api)
	if len(s.api.APIKeys) > 0 {
		w.key = s.api.APIKeys[0].Reveal()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	w.url = "http://" + w.addr
	w.client.Transport = &http.Transport{}
	go func() { w.served <- w.server.Serve(l) }()
	t.Cleanup(w.close)
	return w
}

// with returns the same world for another test to use, a fuzz target's.
func (w *world) with(t testing.TB) *world {
	return &world{t: t, dir: w.dir, addr: w.addr, url: w.url, logs: w.logs, client: http.Client{Transport: w.client.Transport}}
}

// close ends all of it, at once. Closing twice does nothing.
func (w *world) close() {
	if w.reg == nil {
		return
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	w.client.CloseIdleConnections()
	soon, cancelSoon := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancelSoon()
	if err := errors.Join(w.manager.Close(now), w.server.Shutdown(soon), <-w.served, w.reg.Close(), w.store.Close()); err != nil {
		w.t.Error(err)
	}
	w.reg = nil
}

// logs collects what the server logs.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// answer is what came back of a request.
type answer struct {
	status int
	header http.Header
	body   string
}

// object returns the answer's JSON object.
func (a answer) object(t testing.TB) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(a.body), &out); err != nil {
		t.Fatalf("%d %q: %v", a.status, a.body, err)
	}
	return out
}

// do sends a request; headers are pairs.
func (w *world) do(method, path, body string, headers ...string) answer {
	w.t.Helper()
	a, err := w.try(w.t.Context(), method, path, body, headers...)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// try sends a request. What it sends and what comes back has to be as the API's
// description says.
func (w *world) try(ctx context.Context, method, path, body string, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if w.key != "" {
		req.Header.Set("Authorization", "Bearer "+w.key)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil {
		apitest.Check(w.t, req, resp.StatusCode, resp.Header, data)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}, err
}

// get returns the JSON object at path.
func (w *world) get(path string) map[string]any {
	w.t.Helper()
	a := w.do(http.MethodGet, path, "")
	if a.status != http.StatusOK {
		w.t.Fatalf("GET %s: %d %s", path, a.status, a.body)
	}
	return a.object(w.t)
}

// task is the body of POST /task.
func task(sessionID, message string, more ...string) string {
	fields := map[string]any{"sessionId": sessionID, "message": message}
	for i := 0; i < len(more); i += 2 {
		fields[more[i]] = more[i+1]
	}
	data, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// post submits a task and returns the answer at its end.
func (w *world) post(sessionID, message string, more ...string) answer {
	w.t.Helper()
	return w.do(http.MethodPost, "/task", task(sessionID, message, more...), "Content-Type", "application/json")
}

// background posts a task; its answer comes through the channel.
func (w *world) background(sessionID, message string) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		a, err := w.try(context.Background(), http.MethodPost, "/task", task(sessionID, message))
		if err != nil {
			w.t.Errorf("POST /task: %v", err)
		}
		out <- a
	}()
	return out
}

// hold is a message that keeps its task running until letGo.
const hold = `: > started; while [ ! -e go ]; do sleep 0.02; done; echo held`

func (w *world) path(sessionID, name string) string {
	return filepath.Join(w.dir, "sessions", sessionID, "workspace", name)
}

func (w *world) letGo(sessionID string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(sessionID, "go"), nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// held posts a task that runs until letGo, and waits until it runs.
func (w *world) held(sessionID string) <-chan answer {
	w.t.Helper()
	out := w.background(sessionID, hold)
	eventually(w.t, sessionID+" has started", func() bool {
		_, err := os.Stat(w.path(sessionID, "started"))
		return err == nil
	})
	return out
}

// queued waits until so many tasks wait in the session.
func (w *world) queued(sessionID string, n int) {
	w.t.Helper()
	eventually(w.t, "tasks are queued", func() bool {
		return w.get("/session/" + sessionID)["queued"] == float64(n)
	})
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
