package session

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"claude-runner/agent"
	"claude-runner/backends"
)

// process is an agent in its sandbox. It belongs to one task, session or pool
// at a time, which alone changes it.
type process struct {
	backend  string
	sandbox  backends.Sandbox
	launch   agent.Launch
	conv     agent.Conversation
	base     string // what it was started with, by bases; a task of another can't use it
	env      string // the envKey of its task's
	fresh    bool   // it was started ahead of its first task, and has had none
	folder   string // its folder below sessions: its session's, or one that moveIn gives to a session
	mask     masker
	lease    *lease // its way out; nil without a gateway
	in       *controlledInput
	output   *meteredOutput
	warnings []string
	looked   time.Time // when its session's disk was last looked at; for the task that has it

	since   atomic.Int64 // when it began to wait for a task, as Unix time in nanoseconds
	memory  measured     // for watchMemory alone
	mu      sync.Mutex   // guards what follows
	waiting bool
	rested  time.Time   // when it was put to rest; zero: it is not at rest
	rest    *time.Timer // puts it to rest
	nap     *time.Timer // ends its nap; nil: it never took one
	idle    *time.Timer // ends it; nil in a pool
}

// forNone is the base of an agent that waits for no task, but to end.
const forNone = ""

func (p *process) done() bool { return p.base == forNone }

// measured is what an agent took at a time.
type measured struct {
	at    time.Time
	bytes int64
}

// controlledInput is a sandbox's standard input, which the agent's driver and
// the runner's commands to the sandbox's helper share. Each Write is one or more
// whole lines.
type controlledInput struct {
	mu         sync.Mutex
	to         io.WriteCloser
	controlled bool // a helper reads it
}

func (c *controlledInput) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.to.Write(p)
}

func (c *controlledInput) Close() error { return c.to.Close() }

// control gives the helper a command, and reports whether there is a helper. Where
// it does not take it, the sandbox is ending.
func (c *controlledInput) control(command string) bool {
	if c.controlled {
		_, _ = c.Write([]byte(command))
	}
	return c.controlled
}

// stderrShown is how much of the agent's standard error a message quotes.
const stderrShown = 2000

// stderr returns the end of the agent's standard error as part of a sentence.
func (p *process) stderr() string {
	data, err := io.ReadAll(p.sandbox.Stderr())
	data = bytes.TrimSpace(data)
	if err != nil || len(data) == 0 {
		return ""
	}
	text := p.mask.apply(strings.ToValidUTF8(string(data), "?")) // before the cut: half a secret is not recognised
	return "; its standard error ends: " + text[max(0, len(text)-stderrShown):]
}

// stop lets the agent write down its memory, and ends all that is in its
// sandbox. A folder that is no session's goes with it.
func (m *Manager) stop(p *process) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	if err := p.conv.Close(ctx); err != nil {
		m.log.Debug("agent did not end by itself", "backend", p.backend, "error", err)
	}
	cancel()
	m.stopSandbox(p.backend, p.sandbox, stopGrace)
	m.closeLease(p.lease)
	m.discardWarm(p.folder)
}

// stopSandbox ends a sandbox for certain. Where its engine does not let it, it
// goes on trying behind the caller's back; what it has not managed when the
// Manager closes, the next Open does.
func (m *Manager) stopSandbox(backend string, s backends.Sandbox, grace time.Duration) {
	err := stopOnce(s, grace)
	if err == nil {
		return
	}
	log := m.log.With("backend", backend, "sandbox", s.Handle().ID)
	log.Error("sandbox could not be stopped; trying again until it is gone", "error", err)
	m.tasks.Go(func() {
		for pause := firstStopRetry; ; pause = min(2*pause, lastStopRetry) {
			select {
			case <-time.After(pause):
			case <-m.root.Done():
				return
			}
			if err := stopOnce(s, grace); err == nil {
				log.Info("sandbox stopped at last")
				return
			}
		}
	})
}

func stopOnce(s backends.Sandbox, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
	defer cancel()
	return s.Stop(ctx, grace)
}

const (
	closeTimeout = time.Second            // for an agent to end when its input has
	stopGrace    = 500 * time.Millisecond // from asking to killing

	firstStopRetry = time.Second
	lastStopRetry  = 30 * time.Second
)
