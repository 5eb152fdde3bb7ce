package webhook_test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/session"
	"claude-runner/session/webhook"
)

func TestDelivered(t *testing.T) {
	w := newWorld(t, nil)
	r := newReceiver(t, statuses(http.StatusAccepted))
	w.enqueue("m1", r.URL+"/hooks?token=never-show-me")
	d := w.attempted("m1", 1)
	want := session.Delivery{
		ID: "m1", TaskID: "task-m1", Type: session.EventTaskComplete, Webhook: agent.Webhook{URL: r.URL + "/hooks?token=never-show-me"},
		State: session.DeliveryDelivered, Attempts: 1, LastStatus: http.StatusAccepted, CreatedAt: d.CreatedAt, EndedAt: w.clock().UTC(),
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("delivery (-want +got):\n%s", diff)
	}
	if d.Target() != r.URL+"/hooks" {
		t.Errorf("it is shown as sent to %s", d.Target())
	}
	got := r.messages()[0]
	got.verify(t, secret)
	if id := got.header.Get("webhook-id"); id != "m1" || string(got.body) != payload || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("the receiver got %s: %s, %v", id, got.body, got.header)
	}
}

func TestRetries(t *testing.T) {
	w := newWorld(t, nil)
	r := newReceiver(t, statuses(http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusOK))
	w.enqueue("m1", r.URL)
	for n, want := range []time.Duration{5 * time.Second, 30 * time.Second} {
		d := w.attempted("m1", n+1)
		wait := d.NextAttempt.Sub(w.clock())
		if d.State != session.DeliveryPending || wait < want*9/10 || wait > want*11/10 {
			t.Errorf("after attempt %d it is %s and waits %v, want about %v", n+1, d.State, wait, want)
		}
		if !strings.Contains(d.LastError, "answered 50") || d.LastStatus < 500 {
			t.Errorf("after attempt %d: %d %q", n+1, d.LastStatus, d.LastError)
		}
		w.set(d.NextAttempt.Add(-time.Millisecond))
		w.looked()
		w.attempted("m1", n+1) // not yet once more
		w.set(d.NextAttempt)
	}
	if d := w.attempted("m1", 3); d.State != session.DeliveryDelivered || d.LastError != "" {
		t.Errorf("it ended as %s %q", d.State, d.LastError)
	}
	seen := map[string]bool{}
	for _, m := range r.messages() {
		m.verify(t, secret)
		if m.header.Get("webhook-id") != "m1" {
			t.Errorf("an attempt has the id %q", m.header.Get("webhook-id"))
		}
		seen[m.header.Get("webhook-timestamp")] = true
	}
	if len(seen) != 3 {
		t.Errorf("the attempts have the timestamps %v, want one each", seen)
	}
}

func TestRestartBetweenAttempts(t *testing.T) {
	w := newWorld(t, nil)
	r := newReceiver(t, statuses(http.StatusBadGateway, http.StatusNoContent))
	w.enqueue("m1", r.URL)
	next := w.attempted("m1", 1).NextAttempt
	w.close(t.Context())
	w.set(next.Add(72 * time.Hour)) // the runner was down for longer than deliveries are tried
	w.open()
	if d := w.attempted("m1", 2); d.State != session.DeliveryDelivered {
		t.Errorf("it ended as %s %q", d.State, d.LastError)
	}
	for _, m := range r.messages() {
		if m.header.Get("webhook-id") != "m1" || string(m.body) != payload {
			t.Errorf("the receiver got %v %s", m.header, m.body)
		}
	}
}

// A day of attempts, and then an end.
func TestGivesUp(t *testing.T) {
	w := newWorld(t, nil)
	r := newReceiver(t, statuses(http.StatusNotFound))
	w.enqueue("m1", r.URL)
	start := w.clock()
	var d session.Delivery
	for n := 1; ; n++ {
		if d = w.attempted("m1", n); d.State != session.DeliveryPending {
			break
		}
		w.set(d.NextAttempt)
	}
	if d.State != session.DeliveryFailed || d.Attempts != 9 || d.LastStatus != http.StatusNotFound || !d.NextAttempt.IsZero() {
		t.Errorf("it ended so: %+v", d)
	}
	if took := d.EndedAt.Sub(start); took < 22*time.Hour || took > 27*time.Hour {
		t.Errorf("the attempts took %v, want about a day", took)
	}
	if !strings.Contains(w.logs.String(), "last attempt") {
		t.Error("the log does not say that it was given up")
	}
}

func TestGoneIsAnEnd(t *testing.T) {
	w := newWorld(t, nil)
	w.enqueue("m1", newReceiver(t, statuses(http.StatusGone)).URL)
	if d := w.attempted("m1", 1); d.State != session.DeliveryFailed {
		t.Errorf("after 410 it is %s", d.State)
	}
}

func TestRetryAfter(t *testing.T) {
	for name, c := range map[string]struct {
		header func(now time.Time) string
		want   time.Duration
	}{
		"seconds":           {func(time.Time) string { return "120" }, 2 * time.Minute},
		"date":              {func(now time.Time) string { return now.Add(time.Hour).UTC().Format(http.TimeFormat) }, time.Hour},
		"shorter than ours": {func(time.Time) string { return "1" }, 5 * time.Second},
		"beyond all bounds": {func(time.Time) string { return "4000000000" }, 13 * time.Hour},
		"past":              {func(now time.Time) string { return now.Add(-time.Hour).UTC().Format(http.TimeFormat) }, 5 * time.Second},
		"nonsense":          {func(time.Time) string { return "soon" }, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			r := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request, _ int) {
				rw.Header().Set("Retry-After", c.header(w.clock()))
				rw.WriteHeader(http.StatusTooManyRequests)
			})
			w.enqueue("m1", r.URL)
			if wait := w.attempted("m1", 1).NextAttempt.Sub(w.clock()); wait < c.want*9/10-time.Second || wait > c.want*11/10 {
				t.Errorf("it waits %v, want %v", wait, c.want)
			}
		})
	}
}

// An attempt that the runner cuts off is made again by the next one, and does
// not count.
func TestCutOff(t *testing.T) {
	w := newWorld(t, nil)
	arrived := make(chan struct{}, 1)
	r := newReceiver(t, func(rw http.ResponseWriter, req *http.Request, n int) {
		if n == 1 {
			arrived <- struct{}{}
			<-req.Context().Done()
		}
	})
	w.enqueue("m1", r.URL)
	<-arrived
	now, cancel := context.WithCancel(t.Context())
	cancel()
	w.close(now)
	w.open()
	if d := w.attempted("m1", 1); d.State != session.DeliveryDelivered {
		t.Errorf("it ended as %s %q", d.State, d.LastError)
	}
}

// What is written a moment before the end is still sent.
func TestCloseSendsWhatIsDue(t *testing.T) {
	w := newWorld(t, func(o *webhook.Options) { o.Wake = nil })
	r := newReceiver(t, statuses(http.StatusOK))
	w.enqueue("m1", r.URL)
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := w.delivery("m1"); d.State != session.DeliveryDelivered {
		t.Errorf("it is %s", d.State)
	}
}

func TestReceiversThatMisbehave(t *testing.T) {
	elsewhere := newReceiver(t, statuses(http.StatusOK))
	closed := newReceiver(t, statuses(http.StatusOK))
	closed.Close()
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, int)
		url    string
		status int
		text   string
	}{
		"hangs":    {answer: func(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() }, text: "no answer within 1s"},
		"hangs up": {answer: func(http.ResponseWriter, *http.Request, int) { panic(http.ErrAbortHandler) }, text: "EOF"},
		"redirects": {answer: func(w http.ResponseWriter, r *http.Request, _ int) {
			http.Redirect(w, r, elsewhere.URL, http.StatusPermanentRedirect)
		}, status: 308, text: "308"},
		"is gone":   {url: closed.URL + "/?token=never-show-me", text: "connection refused"},
		"no name":   {url: "http://" + strings.Repeat("x", 64) + "/?token=never-show-me", text: "name is not known"}, // no name is so long: no server is asked
		"not https": {url: "https" + strings.TrimPrefix(elsewhere.URL, "http") + "/?token=never-show-me", text: "HTTP response to HTTPS client"},
		"no status": {answer: func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(599) }, status: 599, text: "599"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *webhook.Options) { o.Timeout = time.Second })
			url := c.url
			if c.answer != nil {
				url = newReceiver(t, c.answer).URL + "/?token=never-show-me"
			}
			w.enqueue("m1", url)
			d := w.attempted("m1", 1)
			if d.State != session.DeliveryPending || d.LastStatus != c.status || !strings.Contains(d.LastError, c.text) {
				t.Errorf("it is %s: %d %q, want %d …%s…", d.State, d.LastStatus, d.LastError, c.status, c.text)
			}
			if strings.Contains(d.LastError, "never-show-me") || strings.Contains(d.LastError, "127.0.0.1") {
				t.Errorf("the error says too much: %s", d.LastError)
			}
		})
	}
	if got := len(elsewhere.messages()); got != 0 {
		t.Errorf("a redirect was followed %d times", got)
	}
}

// An answer without an end costs a little reading.
func TestEndlessAnswer(t *testing.T) {
	w := newWorld(t, nil)
	w.enqueue("m1", newReceiver(t, func(rw http.ResponseWriter, _ *http.Request, _ int) {
		for page := make([]byte, 64<<10); ; {
			if _, err := rw.Write(page); err != nil {
				return
			}
		}
	}).URL)
	if d := w.attempted("m1", 1); d.State != session.DeliveryDelivered {
		t.Errorf("it is %s %q", d.State, d.LastError)
	}
}

func TestHangingReceiverHoldsUpItselfAlone(t *testing.T) {
	w := newWorld(t, nil)
	var now, most atomic.Int64
	release := make(chan struct{})
	slow := newReceiver(t, func(_ http.ResponseWriter, req *http.Request, _ int) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		select {
		case <-release:
		case <-req.Context().Done():
		}
	})
	fast := newReceiver(t, statuses(http.StatusOK))
	for i := range 40 {
		w.enqueue("slow"+strconv.Itoa(i), slow.URL)
	}
	for i := range 40 {
		w.enqueue("fast"+strconv.Itoa(i), fast.URL)
	}
	for i := range 40 {
		w.attempted("fast"+strconv.Itoa(i), 1)
	}
	if most.Load() > 4 {
		t.Errorf("the slow receiver had %d attempts at once", most.Load())
	}
	close(release)
	for i := range 40 {
		w.attempted("slow"+strconv.Itoa(i), 1)
	}
}

// Where a delivery goes by its agent's profile, the profile of the moment
// counts: a wrong address can be mended, a secret changed.
func TestProfilesWebhook(t *testing.T) {
	w := newWorld(t, nil)
	r := newReceiver(t, statuses(http.StatusOK))
	w.enqueueDelivery(session.Delivery{ID: "m1", Agent: "shell", Webhook: agent.Webhook{URL: "http://127.0.0.1:1/gone"}})
	if d := w.attempted("m1", 1); d.State != session.DeliveryPending || !strings.Contains(d.LastError, `agent "shell" has no webhook`) {
		t.Errorf("without a webhook in the profile: %s %q", d.State, d.LastError)
	}
	w.setProfile(agent.Webhook{URL: r.URL + "/new", Secret: otherSecret})
	w.set(w.clock().Add(time.Minute))
	if d := w.attempted("m1", 2); d.State != session.DeliveryDelivered || d.Target() != r.URL+"/new" {
		t.Errorf("with one: %s at %s", d.State, d.Target())
	}
	r.messages()[0].verify(t, otherSecret)
}

// A clock that was set back by days does not put deliveries off.
func TestClockSetBack(t *testing.T) {
	w := newWorld(t, nil)
	r := newReceiver(t, statuses(http.StatusInternalServerError, http.StatusOK))
	w.enqueue("m1", r.URL)
	w.attempted("m1", 1)
	w.set(w.clock().Add(-48 * time.Hour))
	w.attempted("m1", 2)
}

// brokenQueue fails its first writes.
type brokenQueue struct {
	session.DeliveryQueue
	failures atomic.Int64
}

func (q *brokenQueue) UpdateDelivery(ctx context.Context, d session.Delivery) error {
	if q.failures.Add(-1) >= 0 {
		return errors.New("disk full")
	}
	return q.DeliveryQueue.UpdateDelivery(ctx, d)
}

func TestOutcomeThatCanNotBeWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	q := &brokenQueue{DeliveryQueue: w.store}
	q.failures.Store(1)
	w.opts.Queue = q
	w.Sender = webhook.Open(w.opts)
	r := newReceiver(t, statuses(http.StatusOK))
	w.enqueue("m1", r.URL)
	if d := w.attempted("m1", 1); d.State != session.DeliveryDelivered || len(r.messages()) != 1 {
		t.Errorf("it is %s after %d requests", d.State, len(r.messages()))
	}
	if !strings.Contains(w.logs.String(), "disk full") {
		t.Error("the log does not tell of the trouble")
	}
}
