package api

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// listener goes on where accepting a connection failed for want of something,
// such as file descriptors, at which the HTTP library would give up. It may be
// closed more than once.
type listener struct {
	net.Listener
	log  *slog.Logger
	done <-chan struct{}

	once sync.Once
	err  error
}

// acceptPause is how long to leave a machine alone that has run out.
const acceptPause = 100 * time.Millisecond

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return c, err
		}
		l.log.Error("a connection could not be accepted", "error", err)
		select {
		case <-time.After(acceptPause):
		case <-l.done:
			return nil, net.ErrClosed
		}
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { l.err = l.Listener.Close() })
	return l.err
}
