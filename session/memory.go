package session

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	measureInterval  = 2 * time.Second
	pressureInterval = 250 * time.Millisecond // while the host lacks memory
	restingInterval  = time.Minute            // for an agent at rest, which takes what it took
	answeredInterval = time.Second            // from an answer, for an agent that was measured before
	busyInterval     = 10 * time.Second       // for an agent that never waits for so long
	measureTimeout   = 5 * time.Second
	measureAtOnce    = 8

	// The host lacks memory where less than this is available: one part in so
	// many of all, or so many percent of the time is spent waiting for memory.
	scarceShare    = 16
	scarcePressure = 20.0
)

// IdleAgents is what agents are that wait for a task.
type IdleAgents struct {
	Hot    int   // in a session
	Warm   int   // in a pool
	Memory int64 // bytes that they take, when they were last measured
}

// idleSize is the last measurement.
type idleSize struct {
	total int64 // bytes
	warm  int64 // of the largest warm agent
}

// idleAgent is one of them, with what ends it.
type idleAgent struct {
	*process
	warm  bool
	since int64 // Unix time in nanoseconds
	evict func()
}

// IdleAgents returns how many agents wait, and what they take.
func (m *Manager) IdleAgents() IdleAgents {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := IdleAgents{Memory: m.idleSize.total}
	for _, i := range m.idleLocked() {
		if i.warm {
			a.Warm++
		} else {
			a.Hot++
		}
	}
	return a
}

// idleLocked returns the agents that wait. m.mu is held.
func (m *Manager) idleLocked() []idleAgent {
	var all []idleAgent
	for _, l := range m.live {
		if p := l.hot; p != nil {
			a := idleAgent{process: p, since: p.since.Load(), evict: func() { m.expire(l, p) }}
			if p.done() {
				a.since = 0 // no task comes for it
			}
			all = append(all, a)
		}
	}
	for _, pool := range m.pools {
		for _, p := range pool.ready {
			all = append(all, idleAgent{process: p, warm: true, since: p.since.Load(), evict: func() { m.evictWarm(pool, p) }})
		}
	}
	return all
}

// evictWarm ends a warm agent for its memory. Its place stays empty for a while.
func (m *Manager) evictWarm(pool *pool, p *process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.Index(pool.ready, p)
	if i < 0 || m.closing {
		return
	}
	pool.ready = slices.Delete(pool.ready, i, i+1)
	pool.err, pool.retryAt = errNoRoom, time.Now().Add(time.Minute)
	m.tasks.Go(func() { m.endWarm(p) })
}

var errNoRoom = errors.New("there is no memory for more agents that wait: raise limits.memory, or lower keep_warm")

// roomForWarm reports whether one more warm agent is within the limit. m.mu is
// held.
func (m *Manager) roomForWarm() bool {
	return m.opts.Memory == 0 || m.idleSize.total+m.idleSize.warm <= m.opts.Memory
}

// kickMemory has idle agents measured soon.
func (m *Manager) kickMemory() {
	select {
	case m.measure <- struct{}{}:
	default:
	}
}

// watchMemory keeps what idle agents take within bounds, until the Manager
// closes.
func (m *Manager) watchMemory() {
	var last time.Time
	for {
		wait := m.boundMemory()
		last = time.Now()
		if wait == 0 { // nobody waits
			select {
			case <-m.measure:
			case <-m.root.Done():
				return
			}
		}
		select {
		case <-time.After(max(wait, pressureInterval) - time.Since(last)):
		case <-m.root.Done():
			return
		}
	}
}

// boundMemory measures idle agents, and ends the longest idle ones where all of
// them take too much, or the host has too little. It returns when to look again,
// 0 where there is none to look at.
func (m *Manager) boundMemory() time.Duration {
	m.mu.Lock()
	idle := m.idleLocked()
	m.mu.Unlock()
	if len(idle) == 0 {
		m.setIdleSize(idleSize{})
		return 0
	}
	m.measureAgents(idle)
	slices.SortFunc(idle, func(a, b idleAgent) int { return cmp.Compare(a.since, b.since) })
	var size idleSize
	for _, a := range idle {
		size.total += a.memory.bytes
		if a.warm {
			size.warm = max(size.warm, a.memory.bytes)
		}
	}
	ended := 0
	for m.opts.Memory > 0 && size.total > m.opts.Memory && ended < len(idle) {
		m.log.Info("an idle agent is ended: limits.memory", "folder", idle[ended].folder, "memory", idle[ended].memory.bytes, "of", size.total)
		idle[ended].evict()
		size.total -= idle[ended].memory.bytes
		ended++
	}
	m.setIdleSize(size)
	if !m.hostIsShort() {
		return measureInterval
	}
	if ended == 0 {
		m.log.Warn("an idle agent is ended: the host lacks memory", "folder", idle[0].folder, "memory", idle[0].memory.bytes)
		idle[0].evict()
	}
	return pressureInterval
}

func (m *Manager) setIdleSize(s idleSize) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.idleSize = s
}

// measureAgents fills in what each takes. One that can't be measured counts as
// nothing: it is ending.
func (m *Manager) measureAgents(all []idleAgent) {
	ctx, cancel := context.WithTimeout(m.root, measureTimeout)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(measureAtOnce)
	for _, a := range all {
		if a.isMeasured() {
			continue
		}
		g.Go(func() error {
			at := time.Now()
			a.memory = measured{}
			if u, err := a.sandbox.Usage(ctx); err == nil {
				a.memory = measured{at, u.Memory}
			}
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
}

// isMeasured reports whether the process takes what it took when it was last
// measured, as far as is to be known: at rest it does; where it waits it does not
// grow, and is looked at less and less; and when it has just answered, it is to
// give back what the turn took, and others may be in a hurry.
func (p *process) isMeasured() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	age, waited := time.Since(p.memory.at), time.Since(time.Unix(0, p.since.Load()))
	switch {
	case p.memory.at.IsZero():
		return false
	case !p.rested.IsZero():
		return p.memory.at.After(p.rested) && age < restingInterval
	case waited < answeredInterval:
		return age < busyInterval
	}
	return age < max(measureInterval, waited/2)
}

// hostIsShort reports whether the host has too little memory to hold agents that
// do nothing.
func (m *Manager) hostIsShort() bool {
	h, err := m.opts.HostMemory()
	if err != nil {
		m.log.Debug("the host's memory is not known", "error", err)
		return false
	}
	return h.Available < h.Total/scarceShare || h.Pressure > scarcePressure
}
