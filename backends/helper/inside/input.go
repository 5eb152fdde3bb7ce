package inside

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"time"

	"claude-runner/backends/pipe"
)

// Commands in the helper's standard input: see backends.ControlSweep, which this
// package can not import.
const (
	ControlSweep = "\x00sweep\n"
	ControlRest  = "\x00rest\n"
	ControlWake  = "\x00wake\n"
)

// maxCommand is how many bytes of a command are looked at.
const maxCommand = 64

// input carries the helper's standard input to the agent's, and obeys the
// commands that are in it.
type input struct {
	agent   *agent
	to      *pipe.End
	inLine  bool      // the next byte belongs to a line of the agent's
	resting bool      // the agent may be at rest
	woken   time.Time // when it was woken
	command []byte    // what has come of a command; empty: none has begun
	unknown bool      // that a command is not known has been said
}

// carry runs to the end of from, or until the agent no longer reads. It closes
// both: whoever writes to from then finds out as the agent's own input would
// have told.
func (in *input) carry(from *pipe.End) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && in.take(buf[:n]) != nil || err != nil {
			break
		}
	}
	_ = from.Close()
	in.awake()
	_ = in.to.Close()
}

// awake has an agent that may be at rest awake.
func (in *input) awake() {
	if in.resting {
		in.agent.do(in.agent.awake)
		in.resting, in.woken = false, time.Now()
	}
}

// take passes on what is the agent's of the next bytes, which waits for an agent
// that is slow, and obeys the commands between. It fails where the agent has
// closed its input.
func (in *input) take(data []byte) error {
	for len(data) > 0 {
		if len(in.command) > 0 || !in.inLine && data[0] == 0 {
			data = in.takeCommand(data)
			continue
		}
		n := len(data)
		if i := bytes.Index(data, []byte("\n\x00")); i >= 0 {
			n = i + 1
		}
		in.awake()
		if !in.woken.IsZero() {
			in.agent.settle(in.woken)
			in.woken = time.Time{}
		}
		if _, err := in.to.Write(data[:n]); err != nil {
			return err
		}
		in.inLine = data[n-1] != '\n'
		data = data[n:]
	}
	return nil
}

// takeCommand takes a command, or a part of it, from the beginning of data,
// obeys it where it is whole, and returns what is behind it.
func (in *input) takeCommand(data []byte) []byte {
	n := bytes.IndexByte(data, '\n') + 1
	part := data[:n]
	if n == 0 {
		part = data
	}
	in.command = append(in.command, part[:min(len(part), maxCommand-len(in.command))]...)
	if n > 0 {
		in.obey(string(in.command))
		in.command = in.command[:0]
	}
	return data[len(part):]
}

func (in *input) obey(command string) {
	switch command {
	case ControlSweep:
		in.agent.do(in.agent.sweep)
	case ControlRest:
		in.resting = true
		in.agent.do(in.agent.rest)
	case ControlWake:
		in.awake()
	default:
		if !in.unknown {
			in.unknown = true
			fmt.Fprintf(os.Stderr, "%s: unknown command %q is ignored\n", Name, command)
		}
	}
}

// newPipe makes a pipe whose reading end is for the agent, which waits at it as
// at any. Neither end is inherited.
func newPipe() (read int, write *pipe.End, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var fds [2]int
	if err := syscall.Pipe(fds[:]); err != nil {
		return -1, nil, os.NewSyscallError("pipe", err)
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	write, err = pipe.Open(fds[1], "the agent's input")
	return fds[0], write, err
}
