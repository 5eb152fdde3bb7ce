package docker

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"time"
)

const (
	// pipeLimit is how much of a sandbox's output the runner holds for its
	// reader; what is beyond it waits in the engine, and then in the process.
	pipeLimit = 256 << 10

	// pipeCeiling bounds what extend can make of that.
	pipeCeiling = 64 << 20

	// stallAfter is how long a write waits before it calls onStall, and again
	// after each further such time. The engine gives a process that has ended
	// two seconds to be read.
	stallAfter = 400 * time.Millisecond
)

// pipe carries a sandbox's standard output from the one goroutine that writes
// to the one that reads. Unlike io.Pipe it holds a little, and can be made to
// hold more.
type pipe struct {
	onStall func() // called by Write while it waits
	abort   <-chan struct{}

	mu      sync.Mutex
	held    bytes.Buffer
	limit   int
	err     error         // what the reader gets at the end; nil before
	readAll chan struct{} // closed when the reader has been told of the end, or need not be
	wrote   chan struct{} // one element: something changed for the reader
	read    chan struct{} // one element: something changed for the writer
}

var errOverflow = errors.New("more output than is kept for a reader that is behind when its sandbox is stopped")

// newPipe returns a pipe whose Write gives up when abort is closed.
func newPipe(abort <-chan struct{}, onStall func()) *pipe {
	return &pipe{
		onStall: onStall, abort: abort, limit: pipeLimit,
		readAll: make(chan struct{}), wrote: make(chan struct{}, 1), read: make(chan struct{}, 1),
	}
}

// Write waits until less than the limit is held, and then takes all of p.
func (p *pipe) Write(b []byte) (int, error) {
	if p.take(b) {
		return len(b), nil
	}
	stalled := time.NewTicker(stallAfter)
	defer stalled.Stop()
	for !p.take(b) {
		select {
		case <-p.read:
		case <-stalled.C:
			p.onStall()
		case <-p.abort:
			return 0, io.ErrClosedPipe
		}
	}
	return len(b), nil
}

func (p *pipe) take(b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held.Len() >= p.limit {
		return false
	}
	p.held.Write(b)
	wake(p.wrote)
	return true
}

// Read returns what is held, and waits where that is nothing.
func (p *pipe) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		p.mu.Lock()
		n, _ := p.held.Read(b)
		if p.held.Len() == 0 {
			p.limit = pipeLimit
		}
		err := p.err
		p.mu.Unlock()
		if n > 0 {
			wake(p.read)
			return n, nil
		}
		if err != nil {
			p.finish()
			return 0, err
		}
		<-p.wrote
	}
}

// end ends the output with io.EOF, or with the error why it is not whole.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	wake(p.wrote)
}

// finish closes readAll: the reader is at the end, or nobody waits for it.
func (p *pipe) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.readAll:
	default:
		close(p.readAll)
	}
}

// extend lets n more bytes be held than now, up to the ceiling.
func (p *pipe) extend(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held.Len() >= pipeCeiling {
		return errOverflow
	}
	p.limit = max(p.limit, min(p.held.Len()+n, pipeCeiling))
	wake(p.read)
	return nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
