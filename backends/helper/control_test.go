package helper_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"

	"claude-runner/backends"
	"claude-runner/backends/helper"
	"claude-runner/backends/helper/inside"
)

var control = helper.Options{Control: true}

func TestControlIsOneContract(t *testing.T) {
	if inside.ControlSweep != backends.ControlSweep || inside.ControlRest != backends.ControlRest || inside.ControlWake != backends.ControlWake {
		t.Error("the helper's commands are not those of package backends")
	}
}

func TestControlCopies(t *testing.T) {
	noise := make([]byte, 9<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	noise = bytes.ReplaceAll(noise, []byte("\n\x00"), []byte("\n\x01"))
	noise[0] = 1
	long := strings.Repeat("x", 8<<20)
	for name, c := range map[string]struct{ in, want, errs string }{
		"nothing":                          {},
		"lines":                            {in: "one\n\ntwo\n", want: "one\n\ntwo\n"},
		"a line that is not finished":      {in: "one\ntwo", want: "one\ntwo"},
		"NUL bytes within a line":          {in: "a\x00b\x00\n\x01\x00\n \x00sweep\n", want: "a\x00b\x00\n\x01\x00\n \x00sweep\n"},
		"9 MiB of noise":                   {in: string(noise), want: string(noise)},
		"a line of 8 MiB between commands": {in: "\x00rest\n" + long + "\n\x00sweep\n\x00rest\nend\n", want: long + "\nend\n"},
		"commands alone":                   {in: "\x00sweep\n\x00rest\n\x00rest\n\x00sweep\n"},
		"commands between lines":           {in: "\x00rest\na\n\x00sweep\nb\n\x00rest\nc", want: "a\nb\nc"},
		"a command that is not finished":   {in: "a\n\x00rest", want: "a\n"},
		"unknown commands, said once": {
			in: "a\n\x00none\nb\n\x00\n\x00again\nc\n", want: "a\nb\nc\n", errs: `unknown command "\x00none\n" is ignored`,
		},
		"an unknown command without an end": {in: "\x00" + long + "\na\n", want: "a\n", errs: "unknown command"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := command(t, control, "cat")
			cmd.Stdin = strings.NewReader(c.in)
			out, errs, status := run(t, cmd)
			if out != c.want || status != 0 {
				t.Errorf("%d bytes %q, want %d %q; status %#x", len(out), clip(out), len(c.want), clip(c.want), status)
			}
			if c.errs == "" && errs != "" || !strings.Contains(errs, c.errs) || strings.Count(errs, "\n") > 1 {
				t.Errorf("stderr %q, want %q", clip(errs), c.errs)
			}
			if len(c.in) > 1<<10 {
				return
			}
			cmd = command(t, control, "cat")
			cmd.Stdin = iotest.OneByteReader(strings.NewReader(c.in))
			if out, _, _ := run(t, cmd); out != c.want {
				t.Errorf("a byte at a time: %q, want %q", out, c.want)
			}
		})
	}
	t.Run("without Control nothing is a command", func(t *testing.T) {
		cmd := command(t, helper.Options{}, "cat")
		cmd.Stdin = strings.NewReader(backends.ControlRest)
		if out, errs, _ := run(t, cmd); out != backends.ControlRest || errs != "" {
			t.Errorf("stdout %q, stderr %q", out, errs)
		}
	})
}

func TestControlOfAnAgentThatDoesNotRead(t *testing.T) {
	t.Run("its writer waits until it does", func(t *testing.T) {
		const size = 4 << 20
		cmd := command(t, control, "trap 'wc -c; exit' USR1; echo ready; while :; do sleep 0.01; done")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out := begin(t, cmd)
		expectLine(t, out, "ready")
		var written atomic.Int64
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			defer in.Close()
			line := []byte(strings.Repeat("x", 4095) + "\n")
			for range size / len(line) {
				n, _ := in.Write(line)
				written.Add(int64(n))
			}
		}()
		held := int64(-1)
		eventually(t, "the writer to stand still", func() bool {
			before := held
			held = written.Load()
			return held > 0 && held == before
		})
		if held > 1<<20 {
			t.Errorf("%d bytes are on the way to an agent that does not read", held)
		}
		if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		expectLine(t, out, fmt.Sprint(size))
		<-wrote
	})
	t.Run("that it has ended is not waited for", func(t *testing.T) {
		cmd := command(t, control, "exit 3")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if _, errs, status := run(t, cmd); status.ExitStatus() != 3 || errs != "" {
			t.Errorf("status %#x, stderr %q, want code 3", status, errs)
		}
	})
	t.Run("who writes to it learns that it has closed its input", func(t *testing.T) {
		cmd := command(t, control, "exec <&-; echo ready; exec sleep 600")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		expectLine(t, begin(t, cmd), "ready")
		eventually(t, "an error of writing", func() bool {
			_, err = io.WriteString(in, "line\n")
			return errors.Is(err, syscall.EPIPE)
		})
	})
}
