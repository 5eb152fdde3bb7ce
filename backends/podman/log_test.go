package podman_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"claude-runner/backends/podman"
)

// writeLog writes what a container has written to one of its streams in the way
// of the engine's monitor: an entry for each line and for what is left over.
func writeLog(log io.Writer, stream string, data []byte) {
	for line := range bytes.Lines(data) {
		if bytes.HasSuffix(line, []byte("\n")) {
			fmt.Fprintf(log, "2026-11-23T16:01:43.136960243+00:00 %s F %s", stream, line)
		} else {
			fmt.Fprintf(log, "2026-11-23T16:01:43.136960243+00:00 %s P %s\n", stream, line)
		}
	}
}

func TestLogIsTheOutputByteForByte(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var log, stdout, stderr, gotOut, gotErr bytes.Buffer
		for range rapid.IntRange(0, 10).Draw(t, "writes") {
			data := rapid.SliceOf(rapid.SampledFrom([]byte("ab \n\r\x00\xffFP"))).Draw(t, "data")
			if rapid.Bool().Draw(t, "to stdout") {
				stdout.Write(data)
				writeLog(&log, "stdout", data)
			} else {
				stderr.Write(data)
				writeLog(&log, "stderr", data)
			}
		}
		parser := podman.NewLogParser(&gotOut, &gotErr)
		for rest := log.Bytes(); len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			if m, err := parser.Write(rest[:n]); m != n || err != nil {
				t.Fatalf("Write of %d bytes: %d, %v", n, m, err)
			}
			rest = rest[n:]
		}
		if !bytes.Equal(gotOut.Bytes(), stdout.Bytes()) || !bytes.Equal(gotErr.Bytes(), stderr.Bytes()) {
			t.Fatalf("stdout %q, stderr %q, want %q and %q", &gotOut, &gotErr, &stdout, &stderr)
		}
	})
}

func TestWhatIsNoLog(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("x", 1000),
		"2026-11-23T16:01:43Z stdlog F x\n",
		"root:x:0:0:root:/root:/bin/bash and so on\n",
		"   \n",
	} {
		if _, err := io.WriteString(podman.NewLogParser(io.Discard, io.Discard), text); err == nil {
			t.Errorf("%q is taken for a log", text)
		}
	}
}

func FuzzLog(f *testing.F) {
	f.Add([]byte("2026-11-23T16:01:43.136960243+00:00 stdout F hi\n"))
	f.Add([]byte("2026-11-23T16:01:43.136960243+00:00 stderr P \n2026 stdout P x\n"))
	f.Fuzz(func(t *testing.T, log []byte) {
		var out bytes.Buffer
		_, err := podman.NewLogParser(&out, &out).Write(log)
		if out.Len() > len(log) {
			t.Errorf("%d bytes of a log have %d bytes of output, %v", len(log), out.Len(), err)
		}
	})
}

func TestLogIsFollowedToTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctr.log")
	w, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r, err := podman.OpenLog(path, os.Geteuid())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	out := podman.NewOutput()
	ended, copied := make(chan struct{}), make(chan error, 1)
	go func() { copied <- podman.CopyLog(t.Context(), r, out, ended); out.Finish(io.EOF) }()
	for i := range 3 {
		want := fmt.Sprintf("line %d\n", i)
		writeLog(w, "stdout", []byte(want))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != want {
			t.Fatalf("read %q, %v, want %q", got, err, want)
		}
	}
	writeLog(w, "stdout", []byte("the end"))
	close(ended)
	if rest, err := io.ReadAll(out); err != nil || string(rest) != "the end" {
		t.Errorf("behind the lines: %q, %v", rest, err)
	}
	if err := <-copied; err != nil {
		t.Error(err)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no longer wanted")
	cancel(cause)
	if err := podman.CopyLog(ctx, r, io.Discard, nil); !errors.Is(err, cause) {
		t.Errorf("following a log ends with %v, want the context's cause", err)
	}
}

func TestLogOfAnotherIsRefused(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "ctr.log"), filepath.Join(dir, "link")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		uid  int
	}{{path, os.Geteuid() + 1}, {link, os.Geteuid()}, {dir, os.Geteuid()}} {
		if f, err := podman.OpenLog(c.path, c.uid); err == nil {
			f.Close()
			t.Errorf("%s is opened as a log of user %d", c.path, c.uid)
		}
	}
}

// frame is a frame of the engine's multiplexed stream.
func frame(stream byte, data string) string {
	header := [8]byte{stream}
	binary.BigEndian.PutUint32(header[4:], uint32(len(data)))
	return string(header[:]) + data
}

func TestDemux(t *testing.T) {
	whole := frame(1, "out ") + frame(2, "err") + frame(1, "") + frame(0, "and ") + frame(1, strings.Repeat("x", 100_000))
	for _, c := range []struct {
		name, stream string
		want         error
	}{
		{"whole", whole, nil},
		{"cut in a header", whole + "\x01\x00", io.ErrUnexpectedEOF},
		{"cut in a frame", whole + frame(1, "abc")[:10], io.ErrUnexpectedEOF},
	} {
		var stdout, stderr bytes.Buffer
		if err := podman.Demux(strings.NewReader(c.stream), &stdout, &stderr); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
		if !strings.HasPrefix(stdout.String(), "out and "+strings.Repeat("x", 100_000)) || stderr.String() != "err" {
			t.Errorf("%s: stdout has %d bytes, stderr %q", c.name, stdout.Len(), &stderr)
		}
	}
	if err := podman.Demux(strings.NewReader(frame(7, "x")), io.Discard, io.Discard); err == nil {
		t.Error("a frame of no known stream is taken")
	}
}

func TestOutputCarriesEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := bytes.Repeat([]byte("0123456789abcdef"), rapid.IntRange(0, 3*podman.OutputLimit/16).Draw(t, "size"))
		pieces := rapid.SliceOfN(rapid.IntRange(1, podman.OutputLimit+100), 1, 5).Draw(t, "pieces")
		out := podman.NewOutput()
		go func() {
			for i, rest := 0, data; len(rest) > 0; i++ {
				n := min(pieces[i%len(pieces)], len(rest))
				_, _ = out.Write(rest[:n])
				rest = rest[n:]
			}
			out.Finish(io.EOF)
		}()
		if got, err := io.ReadAll(out); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("read %d bytes, %v, want %d", len(got), err, len(data))
		}
		<-out.Done()
	})
}

func TestOutputThatNobodyReads(t *testing.T) {
	out := podman.NewOutput()
	data := bytes.Repeat([]byte("x"), podman.OutputLimit+10)

	wrote := make(chan int)
	write := func(p []byte) {
		n, _ := out.Write(p)
		wrote <- n
	}
	go write(data)
	select {
	case n := <-wrote:
		t.Fatalf("the writer did not wait for the reader: wrote %d bytes", n)
	case <-time.After(20 * time.Millisecond):
	}
	out.Hold(true)
	if n := <-wrote; n != podman.OutputLimit {
		t.Errorf("a writer that is held has written %d bytes, want %d", n, podman.OutputLimit)
	}
	out.Hold(false)

	go write(data[podman.OutputLimit:])
	for left := true; left; {
		out.Abandon(0)
		select {
		case <-wrote:
			left = false
		case <-time.After(time.Millisecond):
		}
	}
	out.Finish(io.EOF)
	if got, err := io.ReadAll(out); err != nil || len(got) != podman.OutputLimit {
		t.Errorf("read %d bytes, %v, want the %d that were kept", len(got), err, podman.OutputLimit)
	}
}
