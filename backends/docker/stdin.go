package docker

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/docker/docker/api/types"

	"claude-runner/backends"
)

var errNoStdin = errors.New("standard input is closed: it does not outlive the runner that started the sandbox")

// stdin is the standard input of a sandbox. That of a recovered one is closed.
type stdin struct {
	conn *types.HijackedResponse // nil where recovered

	mu      sync.Mutex
	closed  bool
	stopped bool
}

// Write waits for the process to read, or for the sandbox's end.
func (s *stdin) Write(p []byte) (int, error) {
	s.mu.Lock()
	closed, stopped := s.closed, s.stopped
	s.mu.Unlock()
	switch {
	case stopped:
		return 0, fmt.Errorf("write to standard input: %w", backends.ErrStopped)
	case s.conn == nil:
		return 0, errNoStdin
	case closed:
		return 0, fmt.Errorf("write to standard input: %w", io.ErrClosedPipe)
	}
	n, err := s.conn.Conn.Write(p)
	if err != nil {
		err = fmt.Errorf("write to standard input: %w", err)
	}
	return n, err
}

// Close lets the process find the end of its input. The output goes on.
func (s *stdin) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.conn == nil {
		return nil
	}
	s.closed = true
	if err := s.conn.CloseWrite(); err != nil {
		return fmt.Errorf("close standard input: %w", err)
	}
	return nil
}

// end closes the connection, in both directions, after the sandbox's end.
func (s *stdin) end() {
	if s.conn != nil {
		s.conn.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// stop makes further writes ErrStopped.
func (s *stdin) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
}
