package gateway

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	maxBatch = 256                    // calls that go in one message
	maxKept  = 4096                   // calls that nobody waits for, while there is no daemon
	calmTime = 100 * time.Millisecond // that a call may lie which nobody waits for
	sendGap  = time.Millisecond       // from a message to the next: under load, many go in one
	maxEach  = 8                      // questions at a time to a daemon that has no stream
)

// call is a question that the daemon answers at once, on its way there with
// others: to send and to wake takes longer than what is asked for.
type call struct {
	Path string `json:"path"` // pathRenew, pathTotals or pathForget
	question

	done chan reply // has room for one; nil where nobody waits
}

// reply is what came of a call: an answer, or a complaint.
type reply struct {
	Totals *Totals `json:"totals,omitempty"` // nil: nothing is counted, or asked for
	complaint

	instance string // of the daemon
	err      error  // of the message
}

// batches are the calls that wait for the message before theirs to be answered.
type batches struct {
	mu    sync.Mutex
	queue []*call
	wake  chan struct{} // has something when queue has, or soon
	lazy  *time.Timer
}

func newBatches() *batches {
	b := &batches{wake: make(chan struct{}, 1)}
	b.lazy = time.AfterFunc(time.Hour, b.rouse)
	b.lazy.Stop()
	return b
}

func (b *batches) rouse() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *batches) add(c *call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, c)
	if c.done != nil {
		b.rouse()
	} else if len(b.queue) == 1 {
		b.lazy.Reset(calmTime)
	}
}

// waiting returns in how many messages all that waits goes.
func (b *batches) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return (len(b.queue) + maxBatch - 1) / maxBatch
}

func (b *batches) take() []*call {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.queue), maxBatch)
	batch := b.queue[:n:n]
	if b.queue = b.queue[n:]; len(b.queue) > 0 {
		b.rouse()
	}
	return batch
}

// putBack takes a call again that nobody waits for, and so nobody repeats.
func (b *batches) putBack(one *call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) < maxKept {
		b.queue = append(b.queue, one)
	}
}

// quick puts a question that the daemon answers at once. It goes with those of
// others that come while an earlier message is under way.
func (c *Client) quick(ctx context.Context, path string, q question) (t Totals, err error) {
	err = c.insist(ctx, func() (string, error) {
		one := &call{Path: path, question: q, done: make(chan reply, 1)}
		c.batches.add(one)
		var r reply
		select {
		case r = <-one.done:
		case <-ctx.Done():
			return "", ctx.Err()
		case <-c.ctx.Done(): // nobody sends any more
			r = c.sendOne(ctx, one)
		}
		if r.Totals != nil {
			t = *r.Totals
		}
		if r.err == nil && r.Error != "" {
			r.err = &remoteError{r.complaint}
		}
		return r.instance, r.err
	})
	if t.ByModel == nil {
		t.ByModel = map[string]ModelTotals{}
	}
	return t, err
}

// sendBatches sends what waits, one message at a time, until the client ends.
func (c *Client) sendBatches() {
	var to sender
	defer to.close()
	var last time.Time
	for {
		select {
		case <-c.batches.wake:
			time.Sleep(sendGap - time.Since(last))
			last = time.Now()
			c.sendBatch(c.ctx, &to)
		case <-c.ctx.Done():
			return
		}
	}
}

// sender is the way that batches go.
type sender struct {
	stream  *controlStream // nil: none is open
	without string         // the daemon that has no stream: it is of an earlier version
}

func (s *sender) close() {
	if s.stream != nil {
		s.stream.close()
		s.stream = nil
	}
}

// sendBatch sends what waits, and answers who does.
func (c *Client) sendBatch(ctx context.Context, to *sender) {
	batch := c.batches.take()
	if len(batch) == 0 {
		return
	}
	daemon := c.knownInstance()
	if to.without != "" && to.without == daemon {
		c.sendEach(ctx, batch)
		return
	}
	replies, instance, err := c.exchange(ctx, to, batch)
	var refused *statusError
	if errors.As(err, &refused) && refused.status == http.StatusNotFound {
		to.without = daemon
		c.sendEach(ctx, batch)
		return
	}
	for i, one := range batch {
		r := reply{err: err}
		if err == nil {
			r = replies[i]
		}
		r.instance = instance
		c.settle(ctx, one, r)
	}
}

// settle answers who waits for the call. One that nobody waits for, and that did
// not arrive, is kept for the daemon that is started next, or for Shutdown.
func (c *Client) settle(ctx context.Context, one *call, r reply) {
	var gone *goneError
	switch {
	case one.done != nil:
		one.done <- r
	case r.err != nil && (ctx.Err() != nil || errors.As(r.err, &gone)):
		c.batches.putBack(one)
	}
}

// exchange sends a batch over the stream, which it opens where there is none,
// and returns the replies in the batch's order.
func (c *Client) exchange(ctx context.Context, to *sender, batch []*call) (replies []reply, instance string, err error) {
	if to.stream == nil {
		if to.stream, err = c.openStream(ctx); err != nil {
			return nil, "", err
		}
	}
	instance = to.stream.instance
	if err = to.stream.exchange(batch, &replies); err == nil && len(replies) != len(batch) {
		err = errors.New("the gateway left questions without an answer")
	}
	if err != nil { // the next one begins anew
		to.close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
	}
	return replies, instance, err
}

// sendEach puts the questions one by one.
func (c *Client) sendEach(ctx context.Context, batch []*call) {
	var all errgroup.Group
	all.SetLimit(maxEach)
	for _, one := range batch {
		all.Go(func() error {
			c.settle(ctx, one, c.sendOne(ctx, one))
			return nil
		})
	}
	_ = all.Wait()
}

func (c *Client) sendOne(ctx context.Context, one *call) (r reply) {
	var answer any
	if one.Path == pathTotals {
		answer = &r.Totals
	}
	r.instance, r.err = c.onceAbout(ctx, one.Path, one.question, answer)
	return r
}
