package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	maxBatch = 256                    // calls that go in one request
	maxKept  = 4096                   // calls that nobody waits for, while there is no daemon
	calmTime = 100 * time.Millisecond // that a call may lie which nobody waits for
)

// call is a question that the daemon answers at once, on its way there with
// others: a request takes longer than what it asks for.
type call struct {
	Path string          `json:"path"`
	Body json.RawMessage `json:"body"`

	done chan reply // has room for one; nil where nobody waits
}

// reply is what came of a call: an answer, or a complaint.
type reply struct {
	Answer json.RawMessage `json:"answer,omitempty"`
	complaint

	instance string // of the daemon
	err      error  // of the request
}

// batches are the calls that wait for the request before theirs to be answered.
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

// putBack takes those calls again that nobody waits for, and so nobody repeats.
func (b *batches) putBack(batch []*call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, one := range batch {
		if one.done == nil && len(b.queue) < maxKept {
			b.queue = append(b.queue, one)
		}
	}
}

// together is once for a question that the daemon answers at once. It goes with
// those of others that come while an earlier request is under way.
func (c *Client) together(ctx context.Context, path string, body []byte, answer any) (instance string, err error) {
	one := &call{Path: path, Body: body, done: make(chan reply, 1)}
	c.batches.add(one)
	var r reply
	select {
	case r = <-one.done:
	case <-ctx.Done():
		return "", ctx.Err()
	case <-c.ctx.Done(): // nobody sends any more
		return c.once(ctx, path, body, answer)
	}
	switch {
	case r.err != nil:
		return r.instance, r.err
	case r.Error != "":
		return r.instance, &remoteError{r.complaint}
	case answer != nil:
		err = json.Unmarshal(r.Answer, answer)
	}
	return r.instance, err
}

// sendBatches sends what waits, one request at a time, until the client ends.
func (c *Client) sendBatches() {
	for {
		select {
		case <-c.batches.wake:
			c.sendBatch(c.ctx)
		case <-c.ctx.Done():
			return
		}
	}
}

// sendBatch sends what waits, and answers who does.
func (c *Client) sendBatch(ctx context.Context) {
	batch := c.batches.take()
	if len(batch) == 0 {
		return
	}
	body, err := json.Marshal(batch)
	var replies []reply
	var instance string
	if err == nil {
		instance, err = c.once(ctx, pathBatch, body, &replies)
	}
	var refused *statusError
	switch {
	case errors.As(err, &refused) && refused.status == http.StatusNotFound:
		c.sendEach(ctx, batch) // to a daemon of an earlier version
		return
	case err == nil && len(replies) != len(batch):
		err = errors.New("the gateway left questions without an answer")
	}
	var gone *goneError
	if errors.As(err, &gone) || ctx.Err() != nil {
		c.batches.putBack(batch) // for the daemon that is started for who waits, or for Shutdown
	}
	for i, one := range batch {
		r := reply{err: err}
		if err == nil {
			r = replies[i]
		}
		r.instance = instance
		one.answer(r)
	}
}

func (c *Client) sendEach(ctx context.Context, batch []*call) {
	for _, one := range batch {
		var r reply
		r.instance, r.err = c.once(ctx, one.Path, one.Body, &r.Answer)
		one.answer(r)
	}
}

func (c *call) answer(r reply) {
	if c.done != nil {
		c.done <- r
	}
}

// answerBatch answers calls in their order.
func (d *daemon) answerBatch(ctx context.Context, body []byte) (any, error) {
	var batch []call
	if err := json.Unmarshal(body, &batch); err != nil {
		return nil, errors.New("the questions cannot be read")
	}
	replies := make([]reply, len(batch))
	for i, one := range batch {
		answer, ok := d.quick[one.Path]
		if !ok {
			replies[i].Error = "the gateway does not know " + one.Path
			continue
		}
		v, err := answer(ctx, one.Body)
		if err == nil {
			replies[i].Answer, err = json.Marshal(v)
		}
		if err != nil {
			replies[i].complaint = complain(err)
		}
	}
	return replies, nil
}
