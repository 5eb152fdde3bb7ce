package pipe_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"claude-runner/backends/pipe"
)

// newPipe returns both ends of a pipe that blocks, as a process is started with.
func newPipe(t *testing.T) (read, write *pipe.End) {
	t.Helper()
	var fds [2]int
	if err := syscall.Pipe(fds[:]); err != nil {
		t.Fatal(err)
	}
	ends := make([]*pipe.End, 2)
	for i, fd := range fds {
		end, err := pipe.Open(fd, "pipe")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { end.Close() })
		ends[i] = end
	}
	return ends[0], ends[1]
}

// More than a pipe holds arrives whole, to its end.
func TestCopy(t *testing.T) {
	read, write := newPipe(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		if n, err := write.Write(want); n != len(want) || err != nil {
			t.Errorf("wrote %d bytes: %v", n, err)
		}
		write.Close()
	}()
	got, err := io.ReadAll(read)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes of %d: %v", len(got), len(want), err)
	}
	if n, err := read.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %d, %v", n, err)
	}
}

func TestNobodyReads(t *testing.T) {
	read, write := newPipe(t)
	written := make(chan error)
	go func() {
		_, err := write.Write(make([]byte, 1<<20))
		written <- err
	}()
	if _, err := read.Read(make([]byte, 1)); err != nil { // it has begun
		t.Error(err)
	}
	read.Close()
	if err := <-written; !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v", err)
	}
}

func TestWaitsEnd(t *testing.T) {
	read, _ := newPipe(t)
	if err := read.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := read.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past its deadline: %v", err)
	}
	if err := read.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	closing := time.AfterFunc(10*time.Millisecond, func() { read.Close() })
	defer closing.Stop()
	if n, err := read.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("closed meanwhile: %d, %v", n, err)
	}
}

// A regular file is read and written, too.
func TestRegularFile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	end, err := pipe.Of(f)
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	if n, err := end.Write([]byte("text")); n != 4 || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(end); err != nil || string(got) != "text" {
		t.Errorf("read %q: %v", got, err)
	}
}
