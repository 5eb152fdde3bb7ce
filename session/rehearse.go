package session

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	rehearsalPatience = time.Minute // for an agent to rehearse, which takes it a fraction of a second
	rehearsalRetry    = time.Hour   // until another agent of a base tries that one did not get through
)

// rehearsals knows of which base an agent did not get through its rehearsal.
type rehearsals struct {
	mu    sync.Mutex
	again map[string]time.Time // by base: when another may try
}

func (r *rehearsals) may(base string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !time.Now().Before(r.again[base])
}

func (r *rehearsals) failed(base string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.again == nil {
		r.again = map[string]time.Time{}
	}
	r.again[base] = time.Now().Add(rehearsalRetry)
}

// rehearse has an agent rehearse that has booted, where the gateway makes that cost
// nothing. One that does not get through is of no use; others like it do without for
// a while, since such an agent is ready all the same.
func (m *Manager) rehearse(ctx context.Context, p *process) error {
	if p.lease == nil || !m.rehearsals.may(p.base) {
		return nil
	}
	inTime, cancel := context.WithTimeoutCause(ctx, rehearsalPatience, fmt.Errorf("the agent did not rehearse within %v", rehearsalPatience))
	defer cancel()
	err := p.conv.Rehearse(inTime)
	if err != nil && ctx.Err() == nil {
		m.rehearsals.failed(p.base)
		m.log.Warn("an agent did not get through its rehearsal; others like it do without, and take longer for their first turn",
			"backend", p.backend, "error", err, "for", rehearsalRetry)
	}
	return err
}

// letRehearse opens the lease of an agent that has no task yet: it leads nowhere.
func (m *Manager) letRehearse(ctx context.Context, l *lease) error {
	open := m.shut(l)
	open.Rehearsal = true
	err := m.opts.Gateway.Open(ctx, open)
	if err != nil {
		return fmt.Errorf("open the gateway to an agent without a task: %w", err)
	}
	return nil
}
