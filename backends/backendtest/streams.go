package backendtest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"claude-runner/backends"
)

var streamCases = []testCase{
	{"Close of Stdin delivers end of file", (*suite).stdinEnd},
	{"Stdin carries what is written, in order", (*suite).stdinLarge},
	{"Stdin and Stdout are a conversation", (*suite).conversation},
	{"a line on Stdout is there at once", (*suite).stdoutLive},
	{"Stdout carries 64 MiB to a slow reader, in bounded memory", (*suite).stdoutLarge},
	{"Stdout carries all to a reader that pauses at the end", (*suite).readerPauses},
	{"Stdout carries a line of 8 MiB", (*suite).stdoutLine},
	{"Stdout carries any bytes", (*suite).stdoutBinary},
	{"Stdout of a silent sandbox ends with it", (*suite).stdoutSilent},
	{"Stdout and Stderr are apart", (*suite).streamsApart},
	{"Stderr keeps the last StderrLimit bytes without being read", (*suite).stderrTail},
	{"Stderr of a running sandbox is what is there by now", (*suite).stderrLive},
}

func (s *suite) stdinEnd(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("cat; echo end"))
	if _, err := io.WriteString(sb.Stdin(), "no newline"); err != nil {
		t.Fatal(err)
	}
	if err := sb.Stdin().Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if got := read(t, sb.Stdout()); got != "no newlineend\n" {
		t.Errorf("output %q, want %q", got, "no newlineend\n")
	}
	if exit := wait(t, sb); exit != (backends.Exit{}) {
		t.Errorf("ended with %+v, want exit code 0", exit)
	}
}

func (s *suite) stdinLarge(t *testing.T) {
	data := s.input(noise(4 << 20))
	sb := s.start(t, s.backend(t), s.shell("sha256sum"))
	bounded(t, "writing", func() error { _, err := sb.Stdin().Write(data); return err })
	r := finish(t, sb)
	if want := fmt.Sprintf("%x", sha256.Sum256(data)); !strings.HasPrefix(r.out, want) {
		t.Errorf("the sandbox read %q, want the hash %s", r.out, want)
	}
}

func (s *suite) conversation(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell(`while read -r line; do echo "got $line"; done`))
	for i := range 50 {
		if _, err := fmt.Fprintf(sb.Stdin(), "%d\n", i); err != nil {
			t.Fatal(err)
		}
		expectOutput(t, sb.Stdout(), fmt.Sprintf("got %d\n", i))
	}
	if r := finish(t, sb); r.out != "" || r.exit != (backends.Exit{}) {
		t.Errorf("after the conversation: %+v", r)
	}
}

func (s *suite) stdoutLive(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("printf 'no newline'; exec sleep $"+markVar))
	expectOutput(t, sb.Stdout(), "no newline")
}

func (s *suite) stdoutLarge(t *testing.T) {
	const size, pause, growth = 64 << 20, 8 << 20, 24 << 20
	spec := s.shell("exec cat $W/data")
	want := s.writeNoise(t, filepath.Join(s.folder(t, &spec), "data"), size)
	sb := s.start(t, s.backend(t), spec)

	hash, before := sha256.New(), heap()
	for n := int64(0); ; {
		var m int64
		bounded(t, "reading", func() (err error) { m, err = io.CopyN(hash, sb.Stdout(), pause); return ignoreEOF(err) })
		if n += m; m < pause {
			if n != size {
				t.Errorf("read %d bytes, want %d", n, size)
			}
			break
		}
		time.Sleep(50 * time.Millisecond) // the slow reader: the writer is far ahead of it
		if grown := heap() - before; grown > growth {
			t.Errorf("after %d MiB the runner's memory has grown by %d MiB", n>>20, grown>>20)
			break
		}
	}
	if got := string(hash.Sum(nil)); got != want {
		t.Error("what was read is not what was written")
	}
	if exit := wait(t, sb); exit != (backends.Exit{}) {
		t.Errorf("ended with %+v, want exit code 0", exit)
	}
}

func (s *suite) stdoutLine(t *testing.T) {
	const size = 8 << 20
	r := s.expectExit(t, s.shell(fmt.Sprintf(`head -c %d /dev/zero | tr '\0' x; echo; echo next`, size)), backends.Exit{})
	if r.out != strings.Repeat("x", size)+"\nnext\n" {
		t.Errorf("read %d bytes %q, want a line of %d and another", len(r.out), clip(r.out), size)
	}
}

func (s *suite) stdoutBinary(t *testing.T) {
	spec := s.shell("cat $W/data")
	data := noise(1 << 20)
	for i := range 256 { // bytes that a protocol of lines or of terminals might change
		data = append(data, byte(i), '\r', '\n', 0, byte(i))
	}
	path := filepath.Join(s.folder(t, &spec), "data")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != string(data) {
		t.Errorf("read %d bytes, which are not the %d that were written", len(r.out), len(data))
	}
}

func (s *suite) stdoutSilent(t *testing.T) {
	spec := s.shell("while [ ! -e $W/go ]; do sleep 0.02; done")
	dir := s.folder(t, &spec)
	sb := s.start(t, s.backend(t), spec)
	read := make(chan error, 1)
	go func() {
		n, err := io.Copy(io.Discard, sb.Stdout())
		if n > 0 {
			err = fmt.Errorf("read %d bytes of a silent sandbox", n)
		}
		read <- err
	}()
	select {
	case err := <-read:
		t.Fatalf("Stdout ended while the sandbox runs: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	touch(t, dir, "go")
	bounded(t, "reading to the end", func() error { return <-read })
	if exit := wait(t, sb); exit != (backends.Exit{}) {
		t.Errorf("ended with %+v, want exit code 0", exit)
	}
}

func (s *suite) streamsApart(t *testing.T) {
	r := s.expectExit(t, s.shell("for i in 1 2 3; do echo out; echo err >&2; done"), backends.Exit{})
	if r.out != "out\nout\nout\n" || r.err != "err\nerr\nerr\n" {
		t.Errorf("stdout %q, stderr %q", r.out, r.err)
	}
}

func (s *suite) stderrTail(t *testing.T) {
	spec := s.shell("cat $W/data >&2; echo out")
	data := bytes.ToValidUTF8(noise(4<<20), []byte("é"))
	path := filepath.Join(s.folder(t, &spec), "data")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	r := s.expectExit(t, spec, backends.Exit{})
	if r.out != "out\n" {
		t.Errorf("stdout %q, want %q", r.out, "out\n")
	}
	if want := string(data[len(data)-backends.StderrLimit:]); r.err != want {
		t.Errorf("stderr has %d bytes %q, want the last %d %q", len(r.err), clip(r.err), len(want), clip(want))
	}
}

func (s *suite) stderrLive(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("echo one >&2; read x; echo two >&2"))
	eventually(t, "the first line", func() bool { return read(t, sb.Stderr()) == "one\n" })
	if got := read(t, sb.Stderr()); got != "one\n" {
		t.Errorf("a second reader got %q, want %q", got, "one\n")
	}
	if r := finish(t, sb); r.err != "one\ntwo\n" {
		t.Errorf("stderr %q, want both lines", r.err)
	}
}

// input returns data as what is in front of the main process, if anything is,
// passes on whole.
func (s *suite) input(data []byte) []byte {
	for i, c := range data {
		if s.Control && c == 0 && (i == 0 || data[i-1] == '\n') {
			data[i] = '0'
		}
	}
	return data
}

// noise returns n bytes of every kind, the same in each run.
func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	return data
}

// writeNoise makes a file of size bytes and returns its hash.
func (s *suite) writeNoise(t testing.TB, path string, size int64) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, hash), rand.NewChaCha8([32]byte{1}), size); err != nil {
		t.Fatal(err)
	}
	return string(hash.Sum(nil))
}

// heap returns how much memory is in use, without what could be freed.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
