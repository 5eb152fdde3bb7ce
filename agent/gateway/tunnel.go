package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// tunnelIdle ends a tunnel in which nothing moves.
const tunnelIdle = 10 * time.Minute

// tunnel carries bytes between a sandbox and a host.
type tunnel struct {
	target       target
	inner, outer net.Conn
}

func (t *tunnel) close() {
	_ = t.inner.Close()
	_ = t.outer.Close()
}

// tunnels are those of a lease.
type tunnels struct {
	mu  sync.Mutex
	all map[*tunnel]bool
}

func (s *tunnels) add(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*tunnel]bool{}
	}
	s.all[t] = true
}

func (s *tunnels) remove(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, t)
}

// keep closes the tunnels that may not stay.
func (s *tunnels) keep(may func(*tunnel) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.all {
		if !may(t) {
			t.close()
		}
	}
}

// connect answers a CONNECT: with a tunnel, where it is allowed.
func (l *lease) connect(w http.ResponseWriter, r *http.Request, c *config) {
	to, ok := l.reach(w, r, c, 0)
	if !ok {
		return
	}
	t, outer := to.target, to.conn
	l.open.Add(1) // before the connection is counted no more
	defer l.open.Done()
	inner, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = outer.Close()
		return
	}
	tunnel := &tunnel{target: t, inner: inner, outer: outer}
	l.tunnels.add(tunnel)
	defer l.tunnels.remove(tunnel)
	defer tunnel.close()
	if l.ctx.Err() != nil || !l.config.Load().allowsTunnel(t) {
		return // closed, or forbidden, while it was made
	}
	_ = inner.SetDeadline(time.Time{})
	if _, err := io.WriteString(inner, "HTTP/1.1 200 Connection established\r\n\r\n"); err == nil {
		tunnel.carry(buffered.Reader)
	}
}

// carry copies both ways until both have ended. first is the sandbox's side,
// with what was read of it already.
func (t *tunnel) carry(first *bufio.Reader) {
	idle := time.AfterFunc(tunnelIdle, t.close)
	defer idle.Stop()
	var wg sync.WaitGroup
	wg.Go(func() { t.copy(t.outer, first, idle) })
	wg.Go(func() { t.copy(t.inner, t.outer, idle) })
	wg.Wait()
}

// copy copies one way, and tells the other side when it has ended. Where that
// cannot be told, or something broke, the tunnel ends.
func (t *tunnel) copy(to net.Conn, from io.Reader, idle *time.Timer) {
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	for {
		n, err := from.Read(buffer[:])
		idle.Reset(tunnelIdle)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				t.close()
				return
			}
		}
		if err == nil {
			continue
		}
		half, ok := to.(interface{ CloseWrite() error })
		if err != io.EOF || !ok || half.CloseWrite() != nil {
			t.close()
		}
		return
	}
}
