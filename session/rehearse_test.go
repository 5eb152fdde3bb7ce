package session_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"claude-runner/agent"
	"claude-runner/session"
)

// shyDriver's agents do not get through a rehearsal.
type shyDriver struct {
	shellDriver
	rehearsed atomic.Int64
}

func (d *shyDriver) Open(l agent.Launch, stdin io.WriteCloser, stdout io.Reader) agent.Conversation {
	return &shy{Conversation: d.shellDriver.Open(l, stdin, stdout), driver: d}
}

type shy struct {
	agent.Conversation
	driver *shyDriver
}

func (c *shy) Rehearse(context.Context) error {
	c.driver.rehearsed.Add(1)
	return errors.New("shy")
}

// Where an agent does not get through its rehearsal, others stand ready without one.
func TestWarmWithoutRehearsal(t *testing.T) {
	d, open := &shyDriver{}, &hanging{may: make(chan struct{})}
	close(open.may)
	w, s := warmWorld(t, 1, func(o *session.Options, _ *agent.Profile) { o.Driver, o.Gateway, o.Helper = d, open, noHelper })
	eventually(t, "one of each pool has tried", func() bool { return d.rehearsed.Load() == 2 })
	if p := w.pool(); p.Error != "" {
		t.Errorf("the pool that is full says %q", p.Error)
	}
	for _, id := range []string{"a", "b"} {
		if got := w.run(id, "echo well"); got != "well" {
			t.Errorf("the answer is %q", got)
		}
		w.ready(1)
	}
	s.want(t, 0, 2, 0)
	if n := d.rehearsed.Load(); n != 2 {
		t.Errorf("%d agents rehearse, want one of each pool", n)
	}
}
