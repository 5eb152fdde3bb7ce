// Package webhook sends what tells webhooks of ended tasks: signed as Standard
// Webhooks says, again and again until the receiver takes it, and never to an
// address that the configuration does not allow.
package webhook

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"claude-runner/agent"
	"claude-runner/session"
)

// Options is what a Sender is made of.
type Options struct {
	Queue session.DeliveryQueue
	// Wake holds a token when the queue has something new.
	Wake <-chan struct{}
	// Profile returns the webhook of an agent's profile as it is now.
	Profile func(name string) agent.Webhook
	// AllowPrivate permits receivers on this host and in private networks.
	AllowPrivate bool
	Log          *slog.Logger

	Now     func() time.Time // nil: time.Now
	Timeout time.Duration    // of one attempt; 0: 15 seconds
}

// Sender makes the deliveries of a queue. What is not delivered stays in the
// queue, and the next Sender of it goes on.
type Sender struct {
	opts   Options
	client *http.Client

	root     context.Context // every attempt's
	cancel   context.CancelCauseFunc
	closing  chan struct{}
	close    func() // closes closing, once
	done     chan struct{}
	attempts sync.WaitGroup
	finished chan string // ids of attempts that are over

	underWay map[string]string // id to host; the owner's alone
}

const (
	maxAttempts        = 16 // at once
	maxAttemptsPerHost = 4  // so that a receiver that hangs holds up itself alone

	lookAgain    = time.Minute     // at the latest: the clock may have been set
	storeRetry   = 2 * time.Second // after the queue failed
	storeTimeout = 30 * time.Second
)

var errClosed = errors.New("the runner ends")

// Open starts a Sender. Close it.
func Open(opts Options) *Sender {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Timeout == 0 {
		opts.Timeout = 15 * time.Second
	}
	s := &Sender{
		opts: opts, client: newClient(opts.AllowPrivate),
		closing: make(chan struct{}), done: make(chan struct{}),
		finished: make(chan string, maxAttempts), underWay: map[string]string{},
	}
	s.close = sync.OnceFunc(func() { close(s.closing) })
	s.root, s.cancel = context.WithCancelCause(context.Background())
	go s.run()
	return s
}

// Close ends the Sender. What is due may still be delivered until ctx ends; an
// attempt that is cut off then does not count. Closing again does nothing.
func (s *Sender) Close(ctx context.Context) error {
	s.close()
	select {
	case <-s.done:
	case <-ctx.Done():
	}
	s.cancel(errClosed)
	<-s.done
	s.client.CloseIdleConnections()
	return nil
}

// run is the owner: it begins attempts when they are due.
func (s *Sender) run() {
	defer close(s.done)
	defer s.attempts.Wait()
	for {
		timer := time.NewTimer(s.dispatch())
		select {
		case <-s.closing:
			timer.Stop()
			s.dispatch() // what came a moment ago
			return
		case <-s.opts.Wake:
		case id := <-s.finished:
			delete(s.underWay, id)
		case <-timer.C:
		}
		timer.Stop()
	}
}

// dispatch begins the attempts that are due, and returns how long to wait for
// the next.
func (s *Sender) dispatch() time.Duration {
	for len(s.underWay) < maxAttempts {
		d, err := s.next()
		if errors.Is(err, session.ErrNotFound) {
			return lookAgain
		}
		if err != nil {
			s.opts.Log.Error("deliveries to webhooks can't be read; trying again", "error", err)
			return storeRetry
		}
		// No attempt is put off for longer than longestDelay: the clock was set back.
		if wait := d.NextAttempt.Sub(s.opts.Now()); wait > 0 && wait <= longestDelay {
			return min(wait, lookAgain)
		}
		s.underWay[d.ID] = d.Host()
		s.attempts.Go(func() {
			s.attempt(d)
			s.finished <- d.ID
		})
	}
	return lookAgain
}

// next returns what is to be attempted first, of what is not being attempted.
func (s *Sender) next() (session.Delivery, error) {
	ctx, cancel := context.WithTimeout(s.root, storeTimeout)
	defer cancel()
	var skip session.DeliverySkip
	perHost := map[string]int{}
	for id, host := range s.underWay {
		skip.IDs = append(skip.IDs, id)
		if perHost[host]++; perHost[host] == maxAttemptsPerHost {
			skip.Hosts = append(skip.Hosts, host)
		}
	}
	return s.opts.Queue.NextDelivery(ctx, skip)
}

// attempt sends a delivery and writes what came of it.
func (s *Sender) attempt(d session.Delivery) {
	hook := d.Webhook
	if d.Agent != "" {
		hook = s.opts.Profile(d.Agent)
	}
	if hook.URL != "" {
		d.Webhook.URL = hook.URL
	}
	outcome := s.post(s.root, d, hook)
	if outcome.err != nil && s.root.Err() != nil {
		return // cut off: the next Sender makes it again
	}
	d = outcome.apply(d, s.opts.Now().UTC())
	s.tell(d)
	s.record(d)
}

// tell logs what came of an attempt.
func (s *Sender) tell(d session.Delivery) {
	log := s.opts.Log.With("delivery", d.ID, "task", d.TaskID, "url", d.Target(), "attempt", d.Attempts)
	switch d.State {
	case session.DeliveryDelivered:
		log.Debug("webhook told")
	case session.DeliveryFailed:
		log.Warn("webhook not told; that was the last attempt", "error", d.LastError)
	default:
		log.Info("webhook not told yet", "error", d.LastError, "next", d.NextAttempt)
	}
}

// record writes what came of an attempt. Where that can't be done before the
// Sender closes, the attempt is made again by the next one.
func (s *Sender) record(d session.Delivery) {
	for {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.root), storeTimeout)
		err := s.opts.Queue.UpdateDelivery(ctx, d)
		cancel()
		if err == nil {
			return
		}
		s.opts.Log.Error("the outcome of a delivery can't be written; trying again", "delivery", d.ID, "error", err)
		select {
		case <-time.After(storeRetry):
		case <-s.closing:
			return
		}
	}
}
