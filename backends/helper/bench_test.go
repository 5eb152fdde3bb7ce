package helper_test

import (
	"bufio"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"claude-runner/backends"
)

// BenchmarkStart is what a helper adds to the start of a sandbox, with a program
// that does nothing as the agent. The helper here is without the rest of the
// program, which must not cost it anything: see TestStartsFirst.
func BenchmarkStart(b *testing.B) {
	program := build(b, runtime.GOOS)
	for name, argv := range map[string][]string{
		"without": {"true"},
		"with":    {program, "-socket", "/no/such/socket", "--", "true"},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := exec.Command(argv[0], argv[1:]...).Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLine is a line to an agent that says it again: straight, through a
// helper that looks for commands, and through one that has put it to rest. The
// rest before is not measured.
func BenchmarkLine(b *testing.B) {
	program := build(b, runtime.GOOS)
	for name, c := range map[string]struct {
		argv []string
		rest bool
	}{
		"straight": {argv: []string{"cat"}},
		"through":  {argv: []string{program, "-control", "--", "cat"}},
		"resting":  {argv: []string{program, "-control", "--", "cat"}, rest: true},
	} {
		b.Run(name, func(b *testing.B) {
			cmd := exec.Command(c.argv[0], c.argv[1:]...)
			in, err := cmd.StdinPipe()
			if err != nil {
				b.Fatal(err)
			}
			out := begin(b, cmd)
			defer func() { _ = in.Close(); _ = cmd.Wait() }()
			say := func(text string) {
				if _, err := io.WriteString(in, text); err != nil {
					b.Fatal(err)
				}
			}
			line := func(out *bufio.Reader) {
				say("a line\n")
				expectLine(b, out, "a line")
			}
			line(out)
			for b.Loop() {
				if c.rest {
					b.StopTimer()
					say(backends.ControlRest)
					settle(b, cmd.Process.Pid)
					b.StartTimer()
				}
				line(out)
			}
		})
	}
}

// settle waits until a helper's agent is at rest.
func settle(b *testing.B, pid int) {
	b.Helper()
	eventually(b, "rest", func() bool {
		states, _ := exec.Command("ps", "-o", "stat=", "--ppid", strconv.Itoa(pid)).Output()
		return strings.HasPrefix(string(states), "T")
	})
}

// BenchmarkForward is what the way through a helper costs, beside the way
// straight to the gateway's socket.
func BenchmarkForward(b *testing.B) {
	socket := filepath.Join(b.TempDir(), "s")
	gateway(b, socket, echo)
	through := dialed(b, socket)
	straight := func() net.Conn {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			b.Fatal(err)
		}
		return conn
	}
	for name, dial := range map[string]func() net.Conn{"straight": straight, "through": func() net.Conn { return through() }} {
		b.Run("round trip/"+name, func(b *testing.B) {
			conn := dial()
			defer conn.Close()
			buf := make([]byte, 100)
			for b.Loop() {
				if err := exchange(conn, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("connection/"+name, func(b *testing.B) {
			buf := make([]byte, 100)
			for b.Loop() {
				conn := dial()
				if err := exchange(conn, buf); err != nil {
					b.Fatal(err)
				}
				_ = conn.Close()
			}
		})
		b.Run("bytes/"+name, func(b *testing.B) {
			conn := dial()
			defer conn.Close()
			buf := make([]byte, 64<<10)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if err := exchange(conn, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func exchange(conn net.Conn, buf []byte) error {
	if _, err := conn.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, buf)
	return err
}
