// Package nothing is an agent that does nothing, at once. It stands in for the
// CLI where the runner itself is measured: what a task takes with it is the
// runner's own part.
//
// It is this same program under another name, as the sandbox's helper is. The
// package's init recognises it: a program that imports the package has nothing
// to do for it but Install, and to name what that returns as the CLI's program
// (claude.Options.Program).
//
// It speaks the CLI's stream-json, as far as the driver does:
//
//   - to the control requests "initialize" and "interrupt" it answers with
//     success, to others with an error;
//   - to a user's message with three lines that are written in one piece:
//     system/init, the assistant's text [Answer], and a result of no cost, no
//     tokens and no model call;
//   - at the end of its input it ends with code 0.
//
// Of the command line it reads --model, --session-id and --resume, and passes
// over the rest. It makes no model call, writes no memory, and interrupts
// nothing: there is nothing that takes time.
package nothing

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"claude-runner/backends/pipe"
)

// Name is the base name of the agent's program: a process that was started by
// it is one.
const Name = "claude-runner-nothing"

// Answer is what the agent says to every message.
const Answer = "done"

// init turns this process into the agent where it was started as one. The
// package has few imports for the sake of a start in a few milliseconds (see
// package backends/helper/inside).
func init() {
	if len(os.Args) == 0 || os.Args[0][strings.LastIndexByte(os.Args[0], '/')+1:] != Name {
		return
	}
	// This goroutine is tied to its thread, which costs another a switch of threads
	// for each message.
	ended := make(chan error)
	go func() { ended <- run(os.Args[1:]) }()
	if err := <-ended; err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
		syscall.Exit(1)
	}
	syscall.Exit(0) // at once: os.Exit waits a second under the race detector
}

func run(args []string) error {
	in, err := pipe.Open(0, "stdin")
	if err != nil {
		return err
	}
	out, err := pipe.Open(1, "stdout")
	if err != nil {
		return err
	}
	return newAgent(args).run(in, out)
}
