package session

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"claude-runner/agent"
)

// pool is the warm agents of one profile. Manager.mu guards it.
type pool struct {
	ready    []*process // the longest booted first
	booting  int
	err      error // why the last one could not be started
	failures int   // in a row
	retryAt  time.Time
}

// PoolState is how the warm agents of a profile stand on a backend.
type PoolState struct {
	Agent   string
	Want    int // keep_warm: on all its backends together
	Ready   int
	Booting int       // on any of them
	Error   string    // why the last one could not be started; "": it could
	RetryAt time.Time // when the next one is; zero without an Error
}

const (
	warmPrefix = ".warm-" // begins the names of warm agents' folders; no session's id begins like that

	warmCheck      = 5 * time.Second // how often pools are looked at, at least
	bootPatience   = 5 * time.Minute // for an agent to boot, its image to be pulled
	firstWarmRetry = time.Second     // after a start that failed
	lastWarmRetry  = 5 * time.Minute
)

// poolsOn returns how the warm agents stand of the profiles that may run on a
// backend, by agent.
func (m *Manager) poolsOn(backend string) []PoolState {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []PoolState
	for _, name := range slices.Sorted(maps.Keys(m.pools)) {
		p, profile := m.pools[name], m.profiles.ByName[name]
		if profile.KeepWarm == 0 || !slices.Contains(profile.Backend, backend) {
			continue
		}
		s := PoolState{Agent: name, Want: profile.KeepWarm, Booting: p.booting}
		for _, w := range p.ready {
			if w.backend == backend {
				s.Ready++
			}
		}
		if p.err != nil {
			s.Error, s.RetryAt = p.err.Error(), p.retryAt
		}
		out = append(out, s)
	}
	return out
}

// keepWarm fills the pools until the Manager closes.
func (m *Manager) keepWarm() {
	tick := time.NewTicker(warmCheck)
	defer tick.Stop()
	for {
		next := m.fillPools()
		var due <-chan time.Time
		if next > 0 {
			due = time.After(next)
		}
		select {
		case <-tick.C:
		case <-due:
		case <-m.refill:
		case <-m.root.Done():
			return
		}
	}
}

// kickPools has the pools filled soon.
func (m *Manager) kickPools() {
	select {
	case m.refill <- struct{}{}:
	default:
	}
}

// fillPools ends warm agents that are of no use any more, and starts those that
// are missing. It returns when it should be called again, 0 where that is no
// matter.
func (m *Manager) fillPools() (next time.Duration) {
	if !m.wantsWarm() {
		return 0
	}
	upstreams, err := m.opts.ModelAPIs()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return 0
	}
	for name, p := range m.profiles.ByName {
		if p.KeepWarm > 0 && m.pools[name] == nil {
			m.pools[name] = &pool{}
		}
	}
	for name, pool := range m.pools {
		profile := m.profiles.ByName[name]
		if err != nil { // without credentials there is nothing to boot
			pool.err = err
			continue
		}
		m.dropStale(pool, profile, upstreams)
		if wait := time.Until(pool.retryAt); wait > 0 {
			if next == 0 || wait < next {
				next = wait
			}
			continue
		}
		for len(pool.ready)+pool.booting < profile.KeepWarm && m.roomForWarm() {
			pool.booting++
			m.tasks.Go(func() { m.bootWarm(pool, profile, upstreams) })
			if pool.failures > 0 {
				break // one that tries is enough
			}
		}
	}
	return next
}

// wantsWarm reports whether there is a pool, or should be.
func (m *Manager) wantsWarm() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pools) > 0 {
		return true
	}
	for _, p := range m.profiles.ByName {
		if p.KeepWarm > 0 {
			return true
		}
	}
	return false
}

// dropStale ends the agents of a pool that no task can use. m.mu is held.
func (m *Manager) dropStale(pool *pool, p Profile, upstreams []agent.ModelAPI) {
	base := ""
	if p.KeepWarm > 0 {
		base = m.bases.of(p, upstreams)
	}
	kept := pool.ready[:0]
	for i, w := range pool.ready {
		if w.base == base && w.conv.Alive() && i < p.KeepWarm {
			kept = append(kept, w)
			continue
		}
		m.tasks.Go(func() { m.endWarm(w) })
	}
	clear(pool.ready[len(kept):])
	pool.ready = kept
}

func (m *Manager) endWarm(p *process) {
	p.unkeep()
	m.stop(p)
}

// bootWarm starts an agent for a pool.
func (m *Manager) bootWarm(pool *pool, profile Profile, upstreams []agent.ModelAPI) {
	p, err := m.startWarm(profile, upstreams)
	m.mu.Lock()
	defer m.mu.Unlock()
	pool.booting--
	switch {
	case m.closing:
		if p != nil {
			m.tasks.Go(func() { m.stop(p) })
		}
	case err != nil:
		pool.failures++
		pool.err, pool.retryAt = err, time.Now().Add(min(firstWarmRetry<<min(pool.failures-1, 20), lastWarmRetry))
		m.log.Warn("a warm agent could not be started", "agent", profile.Name, "error", err, "again_at", pool.retryAt)
	default:
		pool.failures, pool.err, pool.retryAt = 0, nil, time.Time{}
		pool.ready = append(pool.ready, p)
		p.keep(0, nil)
		m.kickMemory()
	}
	m.kickPools()
}

func (m *Manager) startWarm(profile Profile, upstreams []agent.ModelAPI) (*process, error) {
	ctx, cancel := context.WithTimeoutCause(m.root, bootPatience, fmt.Errorf("the agent did not boot within %v", bootPatience))
	defer cancel()
	leave, err := m.admission.enterSpare(m.root)
	if err != nil {
		return nil, err
	}
	defer leave()
	return m.newBoot(profile, upstreams).ahead(ctx)
}

// newBoot is the start of an agent for a session that is not there yet.
func (m *Manager) newBoot(profile Profile, upstreams []agent.ModelAPI) *boot {
	id := strings.ToLower(rand.Text()[:13])
	return &boot{
		m: m, profile: profile, upstreams: upstreams, mask: newMasker(secretValues(upstreams, profile.Profile, nil)),
		name: "warm-" + id, folder: warmPrefix + id, letOut: m.letRehearse,
	}
}

// ahead starts the agent, waits until it has booted, and has it rehearse.
func (b *boot) ahead(ctx context.Context) (*process, error) {
	p, err := b.start(ctx)
	if err != nil {
		b.m.discardWarm(b.folder)
		return nil, err
	}
	err = p.booted(ctx)
	if err == nil {
		err = b.m.rehearse(ctx, p)
	}
	if err != nil {
		b.m.stop(p)
		return nil, err
	}
	return p, nil
}

// discardWarm takes a folder away that is no session's.
func (m *Manager) discardWarm(folder string) {
	if !strings.HasPrefix(folder, warmPrefix) {
		return
	}
	if err := m.discard(folder); err != nil {
		m.log.Warn("the folder of an agent that was never used is left", "folder", folder, "error", err)
	}
}

// booted waits until the agent needs nothing more but a message.
func (p *process) booted(ctx context.Context) error {
	select {
	case <-p.conv.Ready():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if p.conv.Alive() {
		return nil
	}
	return &agent.Error{Code: agent.CodeAgentExited, Message: "the agent's process ended before it was ready" + p.stderr()}
}

// takeWarm takes a warm agent that fits out of its pool; nil where there is
// none. Another one is started in its place.
func (m *Manager) takeWarm(name string, fits func(*process) bool) *process {
	defer m.kickPools()
	for {
		m.mu.Lock()
		pool := m.pools[name]
		if pool == nil || len(pool.ready) == 0 {
			m.mu.Unlock()
			return nil
		}
		p := pool.ready[0]
		pool.ready = slices.Delete(pool.ready, 0, 1)
		m.mu.Unlock()
		if fits(p) {
			m.admission.taken()
			p.expect()
			p.unkeep()
			return p
		}
		m.mu.Lock()
		if p.conv.Alive() && !m.closing {
			pool.ready = append(pool.ready, p) // it fits another task
			m.mu.Unlock()
			return nil
		}
		m.mu.Unlock()
		m.endWarm(p)
	}
}

// moveIn makes a warm agent the session's: its folder becomes the session's,
// unless that has something in it.
func (m *Manager) moveIn(p *process, sessionID string) error {
	b, _ := m.opts.Backends.Backend(p.backend)
	if err := m.folders.rename(p.folder, sessionID, !b.Capabilities().MountsAtTarget); err != nil {
		return err
	}
	p.folder = sessionID
	at := m.folders.mounts(sessionID)
	p.launch.Workspace.Host, p.launch.Home.Host, p.launch.Run.Host = at.workspace.Source, at.home.Source, at.run.Source
	if p.lease != nil {
		p.lease.move(p.launch.Run.Host)
	}
	return nil
}

// closePools ends every warm agent.
func (m *Manager) closePools() {
	m.mu.Lock()
	var all []*process
	for _, p := range m.pools {
		all = append(all, p.ready...)
		p.ready = nil
	}
	m.mu.Unlock()
	for _, p := range all {
		m.tasks.Go(func() { m.endWarm(p) })
	}
}
