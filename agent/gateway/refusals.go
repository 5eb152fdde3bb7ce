package gateway

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	maxRefusals = 256              // of one lease that are kept
	burst       = 10 * time.Second // in which the same refusal is told once
)

// refusals are the newest ones of a lease.
type refusals struct {
	mu     sync.Mutex
	last   int64 // the newest one's Seq
	ring   []Refusal
	more   chan struct{} // closed at the next one
	closed bool
}

// newRefusals counts on from the time, so that numbers grow over restarts.
func newRefusals() *refusals {
	return &refusals{last: time.Now().UnixMicro(), more: make(chan struct{})}
}

// add keeps a refusal, and reports whether it is told.
func (r *refusals) add(one Refusal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, old := range slices.Backward(r.ring) {
		if one.Time.Sub(old.Time) > burst {
			break
		}
		if old.Meter == one.Meter && old.Method == one.Method && old.Target == one.Target && old.Reason == one.Reason {
			return false
		}
	}
	r.last++
	one.Seq = r.last
	if len(r.ring) == maxRefusals {
		r.ring = slices.Delete(r.ring, 0, 1)
	}
	r.ring = append(r.ring, one)
	close(r.more)
	r.more = make(chan struct{})
	return true
}

// wait returns those after the given one, when there are some.
func (r *refusals) wait(ctx context.Context, after int64) ([]Refusal, error) {
	for {
		r.mu.Lock()
		from, _ := slices.BinarySearchFunc(r.ring, after+1, func(one Refusal, seq int64) int { return int(one.Seq - seq) })
		found, more, closed := slices.Clone(r.ring[from:]), r.more, r.closed
		r.mu.Unlock()
		switch {
		case len(found) > 0:
			return found, nil
		case closed:
			return nil, ErrNoLease
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// close ends those that wait.
func (r *refusals) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		close(r.more)
		r.more = make(chan struct{})
	}
}
