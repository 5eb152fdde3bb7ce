package backends

import (
	"bytes"
	"io"
	"sync"
)

// Tail is a writer that keeps the last bytes written to it and never fails or
// waits. It is safe for use from several goroutines.
type Tail struct {
	mu    sync.Mutex
	limit int
	buf   []byte // at most twice limit long, so that trimming is rare
	total int64  // bytes that were written
}

// NewTail returns a Tail that keeps the last limit bytes.
func NewTail(limit int) *Tail { return &Tail{limit: limit} }

// Write keeps p's end. It always returns len(p), nil.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	t.total += int64(n)
	if n >= t.limit {
		t.buf = append(t.buf[:0], p[n-t.limit:]...)
		return n, nil
	}
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*t.limit {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-t.limit:]...)
	}
	return n, nil
}

// Bytes returns a copy of what is kept.
func (t *Tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.buf[max(0, len(t.buf)-t.limit):])
}

// Reader returns a reader over what is kept now.
func (t *Tail) Reader() io.Reader {
	t.mu.Lock()
	defer t.mu.Unlock()
	return tailReader{bytes.NewReader(bytes.Clone(t.buf[max(0, len(t.buf)-t.limit):])), t.total}
}

// tailReader reads what a Tail keeps.
type tailReader struct {
	*bytes.Reader
	written int64
}

// Written returns how many bytes were written to the Tail when its reader was
// made: those that are kept, and those that are not.
func (r tailReader) Written() int64 { return r.written }
