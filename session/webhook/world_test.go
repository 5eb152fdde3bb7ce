package webhook_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"

	"claude-runner/agent"
	"claude-runner/session"
	"claude-runner/session/sqlite"
	"claude-runner/session/webhook"
)

func TestMain(m *testing.M) {
	// database/sql's own goroutine ends a moment after Close.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

const (
	secret      = "whsec_bmV2ZXItc2hvdy1tZS1pbi1hbnktbG9n"
	otherSecret = "whsec_YW5vdGhlci1zZWNyZXQtYW5vdGhlci1zZWNyZXQ="
	payload     = `{"type":"task_complete","timestamp":"2026-03-01T12:00:00Z","data":{"taskId":"t"}}`
)

// world is a Sender at work on a queue in a file, with a clock of its own.
type world struct {
	*webhook.Sender
	t     testing.TB
	path  string
	store *sqlite.Store
	wake  chan struct{}
	opts  webhook.Options
	logs  logs

	mu      sync.Mutex
	now     time.Time
	profile agent.Webhook
}

// newWorld starts a Sender that may call this host. change may alter its
// options.
func newWorld(t testing.TB, change func(*webhook.Options)) *world {
	t.Helper()
	w := &world{t: t, path: filepath.Join(t.TempDir(), "runner.db"), now: time.Now(), wake: make(chan struct{}, 1)}
	w.opts = webhook.Options{
		Wake: w.wake, AllowPrivate: true, Now: w.clock, Timeout: 20 * time.Second,
		Log: slog.New(slog.NewTextHandler(&w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Profile: func(string) agent.Webhook {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.profile
		},
	}
	if change != nil {
		change(&w.opts)
	}
	w.open()
	t.Cleanup(func() {
		w.close(t.Context())
		if text := w.logs.String(); bytes.Contains([]byte(text), []byte("never-show-me")) || bytes.Contains([]byte(text), []byte(secret[6:])) {
			t.Errorf("the log has a secret:\n%s", text)
		}
	})
	return w
}

func (w *world) open() {
	w.t.Helper()
	store, err := sqlite.Open(context.Background(), w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.store, w.opts.Queue = store, store
	w.Sender = webhook.Open(w.opts)
}

func (w *world) close(ctx context.Context) {
	w.t.Helper()
	if err := w.Close(ctx); err != nil {
		w.t.Error(err)
	}
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// set sets the clock and has the Sender look at it.
func (w *world) set(to time.Time) {
	w.mu.Lock()
	w.now = to
	w.mu.Unlock()
	w.poke()
}

func (w *world) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// looked waits until the Sender has looked for what is due.
func (w *world) looked() {
	w.t.Helper()
	for range 2 { // it takes the second token behind the look that the first one made it take
		eventually(w.t, "the sender looks for what is due", func() bool { return len(w.wake) == 0 })
		w.poke()
	}
}

func (w *world) setProfile(hook agent.Webhook) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.profile = hook
}

// enqueue ends a task whose end is to be told to url.
func (w *world) enqueue(id, url string) {
	w.t.Helper()
	w.enqueueDelivery(session.Delivery{ID: id, Webhook: agent.Webhook{URL: url, Secret: secret}})
}

func (w *world) enqueueDelivery(d session.Delivery) {
	w.t.Helper()
	now := w.clock().UTC()
	task := session.Task{ID: "task-" + d.ID, SessionID: "s", Agent: "shell", State: session.TaskQueued, CreatedAt: now}
	ended := task
	ended.State, ended.EndedAt = session.TaskSucceeded, now
	d.TaskID, d.Type, d.Payload, d.State = task.ID, session.EventTaskComplete, []byte(payload), session.DeliveryPending
	d.CreatedAt, d.NextAttempt = now, now
	err := w.store.Apply(w.t.Context(), []session.Change{
		{Create: &session.Creation{Session: session.Session{ID: "s", Agent: "shell", CreatedAt: now}, Task: task}},
		{End: &session.Ending{Task: ended, Delivery: &d}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.poke()
}

// delivery returns a delivery as it stands.
func (w *world) delivery(id string) session.Delivery {
	w.t.Helper()
	all, err := w.store.Deliveries(w.t.Context(), "task-"+id)
	if err != nil || len(all) != 1 {
		w.t.Fatalf("deliveries of %s: %v, %v", id, all, err)
	}
	return all[0]
}

// attempted waits until so many attempts were made, and returns the delivery.
func (w *world) attempted(id string, n int) session.Delivery {
	w.t.Helper()
	var d session.Delivery
	eventually(w.t, id+" was attempted "+strconv.Itoa(n)+" times", func() bool {
		d = w.delivery(id)
		return d.Attempts >= n
	})
	if d.Attempts != n {
		w.t.Fatalf("%s was attempted %d times, want %d", id, d.Attempts, n)
	}
	return d
}

// message is a request that a receiver got.
type message struct {
	header http.Header
	body   []byte
}

// receiver is a real one, that answers with the handler and keeps what it got.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []message
}

// newReceiver answers the n-th request, from 1, with what status returns.
func newReceiver(t testing.TB, answer func(w http.ResponseWriter, r *http.Request, n int)) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.got = append(r.got, message{req.Header.Clone(), body})
		n := len(r.got)
		r.mu.Unlock()
		answer(w, req, n)
	}))
	t.Cleanup(r.Close)
	return r
}

// statuses answers with one status after the other, the last one for ever.
func statuses(codes ...int) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, n int) { w.WriteHeader(codes[min(n, len(codes))-1]) }
}

func (r *receiver) messages() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]message(nil), r.got...)
}

// verify checks a message as the standard's receivers do.
func (m message) verify(t testing.TB, secret string) {
	t.Helper()
	hook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := hook.Verify(m.body, m.header); err != nil {
		t.Errorf("message %s: %v", m.header.Get("webhook-id"), err)
	}
}

// logs collects what the Sender logs.
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

// eventually waits until something is so.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
