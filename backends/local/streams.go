package local

import (
	"os"
	"sync"
	"time"

	"claude-runner/backends"
	"claude-runner/backends/pipe"
)

// window is how many bytes the main process may write to its standard output
// before it waits for them to be read.
const window = 64 << 20

// A pipe ends with the last process that has it open. lastWords is how long,
// after the sandbox's end, its end is waited for where that process got it from
// the sandbox without being of it.
const lastWords = 5 * time.Second

// stdoutLog writes the main process's standard output to a file, from which
// runners read.
type stdoutLog struct {
	path       string
	file, pipe *pipe.End
	err        error         // set before copy returns: some of the output is lost
	failed     chan struct{} // closed then

	mu            sync.Mutex
	change        sync.Cond // of the fields below
	written, read int64
	ending        bool
}

func newStdoutLog(f folder) *stdoutLog {
	s := &stdoutLog{path: f.path(stdoutFile), failed: make(chan struct{})}
	s.change.L = &s.mu
	return s
}

// open opens the file, which the runner has made, and returns the end of the
// pipe that is the main process's.
func (s *stdoutLog) open() (write *os.File, err error) {
	file, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	if s.file, err = pipe.Of(file); err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err == nil {
		s.pipe, err = pipe.Of(read)
	}
	return write, err
}

// copy writes down what comes, no more than window ahead of the reader, to the
// end.
func (s *stdoutLog) copy() {
	buf := make([]byte, 64<<10)
	for {
		s.await()
		n, end := s.pipe.Read(buf)
		if _, err := s.file.Write(buf[:n]); err != nil {
			s.err = err
			close(s.failed)
			return
		}
		if end != nil {
			return
		}
		s.mu.Lock()
		s.written += int64(n)
		s.mu.Unlock()
	}
}

// await waits for room in the window.
func (s *stdoutLog) await() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ending && s.written-s.read >= window {
		s.change.Wait()
	}
}

// wasRead tells that a reader has come to position at.
func (s *stdoutLog) wasRead(at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = max(s.read, at)
	s.change.Broadcast()
}

// end tells that no process of the sandbox is left: what the pipe still holds
// is written down without regard to the reader.
func (s *stdoutLog) end() {
	_ = s.pipe.SetReadDeadline(time.Now().Add(lastWords))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	s.change.Broadcast()
}

// stderrLog keeps the end of the main process's standard error in a file. It is
// replaced by its own end when it has grown, so that a reader, which reads one
// file to its end, has all that it should.
type stderrLog struct {
	path       string
	file, pipe *os.File
	size       int64
	tail       *backends.Tail
}

// stderrRoom is how long the file of standard error may be, in bytes.
const stderrRoom = 16 * backends.StderrLimit

func newStderrLog(f folder) *stderrLog {
	return &stderrLog{path: f.path(stderrFile), tail: backends.NewTail(backends.StderrLimit)}
}

// open opens the file, which the runner has made, and returns the end of the
// pipe that is the main process's.
func (s *stderrLog) open() (write *os.File, err error) {
	if s.file, err = os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return nil, err
	}
	s.pipe, write, err = os.Pipe()
	return write, err
}

// copy writes down what comes, to the end. What can not be written, on a full
// disk, is dropped: the main process does not wait for its complaints.
func (s *stderrLog) copy() {
	buf := make([]byte, 32<<10)
	for {
		n, end := s.pipe.Read(buf)
		_, _ = s.tail.Write(buf[:n])
		_, _ = s.file.Write(buf[:n])
		if s.size += int64(n); s.size > stderrRoom {
			s.shorten()
		}
		if end != nil {
			return
		}
	}
}

// shorten replaces the file by its end, if it can.
func (s *stderrLog) shorten() {
	short, err := os.OpenFile(s.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	end := s.tail.Bytes()
	if _, err = short.Write(end); err == nil {
		err = os.Rename(s.path+".new", s.path)
	}
	if err != nil {
		_ = short.Close()
		return
	}
	_ = s.file.Close()
	s.file, s.size = short, int64(len(end))
}

// end tells that no process of the sandbox is left.
func (s *stderrLog) end() { _ = s.pipe.SetReadDeadline(time.Now().Add(lastWords)) }
