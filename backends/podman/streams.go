package podman

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"claude-runner/backends"
)

// demux splits the engine's multiplexed stream: each frame has a header of
// eight bytes, of which the first says whose it is and the last four its
// length. It returns nil where the stream ends between two frames.
func demux(r io.Reader, stdout, stderr io.Writer) error {
	in, buf := bufio.NewReaderSize(r, 64<<10), make([]byte, 32<<10)
	for {
		var header [8]byte
		if _, err := io.ReadFull(in, header[:]); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		to := stdout
		switch header[0] {
		case 0, 1:
		case 2:
			to = stderr
		default:
			return fmt.Errorf("podman: a frame of the unknown stream %d", header[0])
		}
		size := int64(binary.BigEndian.Uint32(header[4:]))
		n, err := io.CopyBuffer(to, io.LimitReader(in, size), buf)
		if err != nil {
			return err
		}
		if n < size {
			return io.ErrUnexpectedEOF
		}
	}
}

// counter counts what is written through it.
type counter struct {
	io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}

// outputLimit is how much of a sandbox's standard output waits for its reader
// in the runner's memory. Behind that the main process waits.
const outputLimit = 64 << 10

// output is a pipe with a bounded buffer, for one writer and one reader.
type output struct {
	mu      sync.Mutex
	changed sync.Cond
	ring    [outputLimit]byte
	start   int // of what is unread
	length  int // of what is unread

	end      error     // what the reader gets behind the last byte; nil while the writer goes on
	any      bool      // something was written
	held     bool      // Write fails instead of waiting
	dropping bool      // nobody reads: what does not fit is lost
	waiting  time.Time // since when the writer waits for the reader; zero while it does not

	ended chan struct{} // closed once the writer has ended
	done  chan struct{} // closed once all is read, too
}

func newOutput() *output {
	o := &output{ended: make(chan struct{}), done: make(chan struct{})}
	o.changed.L = &o.mu
	return o
}

var errHeld = errors.New("the writer is held")

// Write waits for room. It fails once the pipe has ended, and while it is held.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.any = o.any || len(p) > 0
	for n := 0; ; {
		if o.end != nil {
			return n, io.ErrClosedPipe
		}
		for n < len(p) && o.length < len(o.ring) {
			at := (o.start + o.length) % len(o.ring)
			k := copy(o.ring[at:min(len(o.ring), at+len(o.ring)-o.length)], p[n:])
			n, o.length = n+k, o.length+k
		}
		o.changed.Broadcast()
		if n == len(p) || o.dropping {
			o.waiting = time.Time{}
			return len(p), nil
		}
		if o.held {
			o.waiting = time.Time{}
			return n, errHeld
		}
		o.waiting = time.Now()
		o.changed.Wait()
	}
}

func (o *output) Read(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.length == 0 && o.end == nil && len(p) > 0 {
		o.changed.Wait()
	}
	n := copy(p, o.ring[o.start:min(len(o.ring), o.start+o.length)])
	o.start, o.length = (o.start+n)%len(o.ring), o.length-n
	o.changed.Broadcast()
	o.settle()
	if n == 0 && len(p) > 0 {
		return 0, o.end
	}
	return n, nil
}

// finish ends the pipe: the reader gets err behind the last byte.
func (o *output) finish(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.end != nil {
		return
	}
	o.end = err
	close(o.ended)
	o.changed.Broadcast()
	o.settle()
}

// settle closes done once the writer has ended and all is read.
func (o *output) settle() {
	if o.end == nil || o.length > 0 {
		return
	}
	select {
	case <-o.done:
	default:
		close(o.done)
	}
}

// hold makes a writer that waits for the reader give up, or sets it free again.
func (o *output) hold(held bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held = held
	o.changed.Broadcast()
}

// carried reports whether anything was written.
func (o *output) carried() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.any
}

// abandon gives up on a reader that lets the writer wait for longer than d.
func (o *output) abandon(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.waiting.IsZero() && time.Since(o.waiting) > d {
		o.dropping = true
		o.changed.Broadcast()
	}
}

// input is the main process's standard input.
type input struct {
	to      stream // nil where it is closed already, for a recovered sandbox
	closed  atomic.Bool
	stopped atomic.Bool
}

func (i *input) Write(p []byte) (int, error) {
	switch {
	case i.stopped.Load():
		return 0, fmt.Errorf("write to standard input: %w", backends.ErrStopped)
	case i.to == nil || i.closed.Load():
		return 0, fmt.Errorf("write to standard input: %w", io.ErrClosedPipe)
	}
	n, err := i.to.Write(p)
	switch {
	case err == nil:
		return n, nil
	case i.stopped.Load():
		err = errors.Join(backends.ErrStopped, err)
	}
	return n, fmt.Errorf("write to standard input: %w", err)
}

// Close delivers end of file to the main process.
func (i *input) Close() error {
	if i.to == nil || i.closed.Swap(true) || i.stopped.Load() {
		return nil
	}
	if err := i.to.CloseWrite(); err != nil {
		return fmt.Errorf("close standard input: %w", err)
	}
	return nil
}
