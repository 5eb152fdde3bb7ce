package gateway

import (
	"context"
	"sync"
)

// openings are the leases that the daemon is being asked to open. A question that
// its asker has left may reach the daemon all the same, behind a later one: so
// openings go to their end, and a lease is closed behind that.
type openings struct {
	mu sync.Mutex
	of map[string]*opening // by lease
}

type opening struct {
	questions int
	over      chan struct{} // closed behind the last question
}

// begin counts a question until over is called.
func (o *openings) begin(lease string) (over func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	one := o.of[lease]
	if one == nil {
		one = &opening{over: make(chan struct{})}
		if o.of == nil {
			o.of = map[string]*opening{}
		}
		o.of[lease] = one
	}
	one.questions++
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if one.questions--; one.questions == 0 {
			delete(o.of, lease)
			close(one.over)
		}
	}
}

// wait returns when the lease is not being opened, or ctx ends.
func (o *openings) wait(ctx context.Context, lease string) error {
	o.mu.Lock()
	one := o.of[lease]
	o.mu.Unlock()
	if one == nil {
		return nil
	}
	select {
	case <-one.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
