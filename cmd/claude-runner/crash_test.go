package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"claude-runner/agent/scripted"
	"claude-runner/api/apitest"
	"claude-runner/backends/backendtest"
)

// asServer makes the test's binary the program itself: its value is the
// command line, a word per line.
const asServer = "CRASH_TEST_SERVER"

func init() {
	if line := os.Getenv(asServer); line != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		code := execute(ctx, strings.Split(line, "\n"))
		stop()
		os.Exit(code)
	}
}

// killsEnv says how often the long form kills the runner; sessionsEnv, over how
// many sessions.
const (
	killsEnv    = "CRASHTEST_KILLS"
	sessionsEnv = "CRASHTEST_SESSIONS"
)

// TestCrash kills the runner again and again while sessions work, and holds
// afterwards that nothing was lost and nothing happened twice.
func TestCrash(t *testing.T) {
	kills, sessions := fromEnv(t, killsEnv, 4), fromEnv(t, sessionsEnv, 3)
	for _, backend := range []string{"docker", "podman", "local"} {
		t.Run(backend, func(t *testing.T) {
			c := newCrash(t, backend, 1)
			c.run(sessions, kills)
			c.checkTasks()
			c.checkStreams()
			c.checkCosts()
			c.stop()
			c.checkRemains()
		})
	}
}

func fromEnv(t *testing.T, name string, otherwise int) int {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		return otherwise
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number", name, value)
	}
	return n
}

const crashConfig = `
server: {listen: %q}
data_dir: %q
limits: {concurrency: 8, boots: 2}
model_api: {base_url: %q, api_key: sk-test-key}
log: {level: warn}
shutdown_grace: 30s
backends: {it: {kind: %s%s}}
agents:
  worker: {backend: it, limits: {memory: 0, cpus: 0, pids: 0}, timeout: 5m, idle_timeout: 1m, keep_warm: %d}
`

const crashScript = `
prices: {claude-sonnet-4-6: {input: 3, output: 15, cache_read: 0.3, cache_write: 3.75}}
rules:
  - match: {message: '/step (\d+)/', tool_results: 0}
    chunk_delay: 4ms
    answer:
      - thinking: I shall do step {{.Match 1}} and nothing else, and tell how it went.
        chunk: 8
      - text: I begin with step {{.Match 1}}, which takes a moment of its own.
        chunk: 8
      - tool_use: Bash
        input: {command: 'echo {{.Match 1}} >> steps; sleep 0.2; paste -sd, steps', description: do the step}
  - match: {message: '/^stay/', tool_results: 0}
    answer:
      - text: I begin
      - tool_use: Bash
        input: {command: sleep 600, description: stay}
  - match: {message: '/^(say|recall) /'}
    answer: [{text: 'done'}]
  - match: {tool_name: Bash}
    chunk_delay: 4ms
    answer:
      - text: 'done: {{trim .LastToolResult}}'
        chunk: 3
`

// crash is a runner that is killed, and what clients saw of it.
type crash struct {
	t       *testing.T
	backend string
	dir     string
	base    string // http://host:port
	config  string
	model   *scripted.Server

	mu      sync.Mutex
	process *exec.Cmd
	log     bytes.Buffer
	streams map[string][]crashEvent // by session, as read in pieces
	steps   map[string]int          // answered, by session
}

type crashEvent struct {
	Seq    int64  `json:"seq"`
	Type   string `json:"type"`
	TaskID string `json:"taskId"`
	Text   string `json:"text"`
	raw    string
}

func newCrash(t *testing.T, backend string, keepWarm int) *crash {
	t.Helper()
	script := filepath.Join(t.TempDir(), "script.yaml")
	write(t, script, crashScript)
	model, url := startModel(t, script, scripted.Options{})
	c := &crash{t: t, backend: backend, dir: backendtest.SharedDir(t), model: model, streams: map[string][]crashEvent{}, steps: map[string]int{}}
	address := freeAddress(t)
	c.base, c.config = "http://"+address, filepath.Join(t.TempDir(), "config.yaml")
	extra := ""
	if backend == "local" {
		extra = fmt.Sprintf(", path: [%q, /usr/local/bin, /usr/bin, /bin]", cliDir(t, backend))
	}
	write(t, c.config, fmt.Sprintf(crashConfig, address, c.dir, url, backend, extra, keepWarm))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the runner's log:\n%s", c.log.String())
		}
	})
	c.start()
	t.Cleanup(c.stop)
	c.require()
	return c
}

// require skips the test where the backend can't run agents here, or fails it
// where it has to.
func (c *crash) require() {
	c.t.Helper()
	status, answer, err := c.try(`{"sessionId": "first", "message": "step 1"}`, "first")
	if err != nil {
		c.t.Fatal(err)
	}
	var failure struct{ Error, Code string }
	if err := json.Unmarshal(answer, &failure); err != nil {
		c.t.Fatal(err)
	}
	switch {
	case failure.Code == "no_backend" || failure.Code == "image_not_found":
		c.stop()
		backendtest.Require(c.t, c.backend, errors.New(failure.Error))
	case status != http.StatusOK:
		c.t.Fatalf("the first task: %d %s", status, answer)
	}
	c.steps["first"], c.streams["first"] = 1, c.whole("first")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// freeAddress returns an address of loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// start starts the runner, and waits until it answers.
func (c *crash) start() {
	c.t.Helper()
	program, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CLAUDE_RUNNER_") }), asServer+"=serve\n--config\n"+c.config)
	cmd.Stdout, cmd.Stderr = io.Discard, &c.log
	c.mu.Lock()
	c.process = cmd
	err = cmd.Start()
	c.mu.Unlock()
	if err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, time.Minute, "the runner answers", func() bool {
		resp, err := http.Get(c.base + "/health")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// kill ends the runner as a crash would.
func (c *crash) kill() {
	c.t.Helper()
	if err := c.process.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	_ = c.process.Wait() // it says that it was killed
}

// stop ends the runner in order; once.
func (c *crash) stop() {
	if c.process.ProcessState != nil {
		return
	}
	if err := c.process.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Error(err)
	}
	if err := c.process.Wait(); err != nil {
		c.t.Errorf("the runner ended with %v", err)
	}
}

// run lets sessions work while the runner is killed.
func (c *crash) run(sessions, kills int) {
	var over atomic.Bool
	var workers, readers sync.WaitGroup
	reading, stopReading := context.WithCancel(context.Background())
	for i := range sessions {
		id := fmt.Sprintf("worker-%d", i)
		workers.Go(func() { c.work(id, &over) })
		readers.Go(func() { c.read(reading, id) })
	}
	random := rand.New(rand.NewPCG(1, uint64(kills)))
	for range kills {
		time.Sleep(time.Duration(50+random.IntN(2500)) * time.Millisecond) // any moment will do
		c.kill()
		c.start()
	}
	over.Store(true)
	workers.Wait()
	eventually(c.t, time.Minute, "every stream is read to its end", func() bool {
		for i := range sessions {
			id := fmt.Sprintf("worker-%d", i)
			c.mu.Lock()
			n := len(c.streams[id])
			c.mu.Unlock()
			if last := c.whole(id); len(last) > n {
				return false
			}
		}
		return true
	})
	stopReading()
	readers.Wait()
}

// work gives a session one step after the other, each under a key of its own,
// until it is over; a step that was begun is brought to its end.
func (c *crash) work(session string, over *atomic.Bool) {
	for n := 1; !over.Load(); n++ {
		body := fmt.Sprintf(`{"sessionId": %q, "message": "step %d"}`, session, n)
		answer, err := c.post(body, fmt.Sprintf("%s/%d", session, n))
		if err != nil {
			c.t.Errorf("%s, step %d: %v", session, n, err)
			return
		}
		var steps []string
		for i := range n {
			steps = append(steps, strconv.Itoa(i+1))
		}
		if want := "done: " + strings.Join(steps, ","); answer != want {
			c.t.Errorf("%s, step %d: the answer is %q, want %q", session, n, answer, want)
			return
		}
		c.mu.Lock()
		c.steps[session] = n
		c.mu.Unlock()
	}
}

// post submits a task and returns its answer in words. While the runner is away
// it tries again.
func (c *crash) post(body, key string) (string, error) {
	deadline := time.Now().Add(3 * time.Minute)
	for {
		status, text, err := c.try(body, key)
		switch {
		case err == nil && status == http.StatusOK:
			var answer struct {
				Text string `json:"text"`
			}
			return answer.Text, json.Unmarshal(text, &answer)
		case err == nil && status != http.StatusServiceUnavailable:
			return "", fmt.Errorf("answer %d: %s", status, text)
		case time.Now().After(deadline):
			return "", fmt.Errorf("no answer in time: %d %s %w", status, text, err)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

func (c *crash) try(body, key string) (int, []byte, error) {
	req, err := http.NewRequest(http.MethodPost, c.base+"/task", strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		apitest.Check(c.t, req, resp.StatusCode, resp.Header, text)
	}
	return resp.StatusCode, text, err
}

// read follows a session's stream in pieces: it connects again, behind what it
// has, whenever it is cut off.
func (c *crash) read(ctx context.Context, session string) {
	for ctx.Err() == nil {
		c.mu.Lock()
		after := int64(0)
		if have := c.streams[session]; len(have) > 0 {
			after = have[len(have)-1].Seq
		}
		c.mu.Unlock()
		c.follow(ctx, session, after, func(e crashEvent) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.streams[session] = append(c.streams[session], e)
			return true
		})
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// follow reads events until it is cut off or got wants no more. It returns the
// number of the last one that there was at its beginning.
func (c *crash) follow(ctx context.Context, session string, after int64, got func(crashEvent) bool) (last int64) {
	address := "ws" + strings.TrimPrefix(c.base, "http") + "/stream/" + session + "?after=" + strconv.FormatInt(after, 10)
	conn, resp, err := websocket.DefaultDialer.DialContext(ctx, address, nil)
	if err != nil {
		return -1
	}
	resp.Body.Close()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for {
		_, data, err := conn.ReadMessage()
		if err != nil {
			return last
		}
		apitest.CheckSchema(c.t, "StreamEvent", data)
		e := crashEvent{raw: string(data)}
		if err := json.Unmarshal(data, &e); err != nil {
			c.t.Errorf("event %q: %v", data, err)
			return last
		}
		if e.Type == "connected" {
			continue
		}
		if last = e.Seq; !got(e) {
			return last
		}
	}
}
