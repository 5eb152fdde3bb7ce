// Package inside is the helper's life in a sandbox. It is a package of its own,
// with few imports, for the sake of a start in a few milliseconds. Go initialises
// packages in the order of their paths, each behind its imports: this one comes
// before all of other modules, of which the program has many, as long as it
// imports none of them, and nothing of the standard library that comes late
// either, as net, path/filepath and runtime/debug do. GODEBUG=inittrace=1 shows it.
package inside

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
)

// Name is the base name of the helper's program: a process that was started by
// it is a helper.
const Name = "claude-runner-helper"

// AddressToken stands for the helper's address in the values of the agent's
// environment: HTTP_PROXY=http://gateway.claude-runner.invalid becomes
// HTTP_PROXY=http://127.0.0.1:PORT.
const AddressToken = "gateway.claude-runner.invalid"

// Exit codes of the helper where no agent was started, as a shell has them.
const (
	ExitUsage         = 125 // the helper can not do its part
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// init turns this process into a helper where it was started as one, unless
// its files are to be confined: package helper sees to that, a little later.
func init() {
	if !Started() {
		return
	}
	o, err := Parse(os.Args[1:])
	if err == nil && o.Confined() {
		return
	}
	Main(o, err)
}

// Started says whether this process was started as a helper.
func Started() bool {
	return len(os.Args) > 0 && os.Args[0][strings.LastIndexByte(os.Args[0], '/')+1:] == Name
}

// Options are what the helper's command line says.
type Options struct {
	Socket    string   // where the gateway listens; "": no listener
	ReadWrite []string // where Landlock lets the agent write
	ReadOnly  []string // where Landlock lets it read, besides the system's files
	Control   bool     // there are commands in the input
	Argv      []string // the agent
}

// Confined says whether the agent's files are to be confined.
func (o Options) Confined() bool { return len(o.ReadWrite)+len(o.ReadOnly) > 0 }

// Args is the command line that says o, without the program.
func (o Options) Args() []string {
	var args []string
	if o.Socket != "" {
		args = append(args, "-socket", o.Socket)
	}
	for _, p := range o.ReadWrite {
		args = append(args, "-rw", p)
	}
	for _, p := range o.ReadOnly {
		args = append(args, "-ro", p)
	}
	if o.Control {
		args = append(args, "-control")
	}
	return append(append(args, "--"), o.Argv...)
}

// Parse reads a command line.
func Parse(args []string) (Options, error) {
	var o Options
	for len(args) > 0 && args[0] != "--" {
		flag := args[0]
		if flag == "-control" {
			o.Control, args = true, args[1:]
			continue
		}
		if len(args) < 2 {
			return o, fmt.Errorf("%s has no value", flag)
		}
		switch value := args[1]; flag {
		case "-socket":
			o.Socket = value
		case "-rw":
			o.ReadWrite = append(o.ReadWrite, value)
		case "-ro":
			o.ReadOnly = append(o.ReadOnly, value)
		default:
			return o, fmt.Errorf("unknown option %q: want -socket, -rw, -ro, -control, then -- and the agent's command line", flag)
		}
		args = args[2:]
	}
	if len(args) < 2 || args[1] == "" {
		return o, errors.New("no command line of an agent after --")
	}
	o.Argv = args[1:]
	return o, nil
}

// Main is a helper's life: it never returns. A failure to parse is the first
// thing that it may have to tell.
func Main(o Options, err error) {
	if err == nil {
		err = run(o)
	}
	code := ExitUsage
	if f, ok := errors.AsType[failure](err); ok {
		code = f.code
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
	syscall.Exit(code) // at once: os.Exit waits a second under the race detector
}

// failure is an error with the exit code that says it.
type failure struct {
	code int
	error
}

// run starts the agent and ends as it does. It returns only where that fails.
func run(o Options) error {
	runtime.GOMAXPROCS(2) // there is little to do, and a helper for each agent
	// What the kernel ties to a thread, the agent's death by the helper's end
	// above all, is tied to the one that this goroutine keeps.
	runtime.LockOSThread()
	env := os.Environ()
	if o.Socket != "" {
		address, err := listen(o.Socket)
		if err != nil {
			return err
		}
		for i, kv := range env {
			if name, value, ok := strings.Cut(kv, "="); ok {
				env[i] = name + "=" + strings.ReplaceAll(value, AddressToken, address)
			}
		}
	}
	agent, err := start(o, env)
	if err != nil {
		return err
	}
	return endAs(agent.wait())
}
