// Package helper is the first process of a sandbox whose network is the
// gateway's alone. It listens on the sandbox's loopback, forwards each
// connection to the gateway's unix socket, starts the agent with its own
// streams, passes signals on to it, collects orphans, and ends as the agent
// ended. Between turns it clears up behind the agent and puts it to rest, where
// it is told to. On hosts whose kernel has Landlock it also confines the agent's files,
// for backends that do not.
//
// The helper is this same program under another name. The package's init
// functions recognise it (see package inside): a program that imports the
// package has nothing to do for it but Install.
package helper

import (
	"errors"
	"fmt"
	"slices"

	"claude-runner/backends"
	"claude-runner/backends/helper/inside"
)

// AddressToken stands for the helper's address, as HOST:PORT, in the values of
// a sandbox's environment: HTTP_PROXY=http://gateway.claude-runner.invalid.
const AddressToken = inside.AddressToken

// Target is where a sandbox with an image of its own finds the helper.
const Target = "/usr/local/lib/" + inside.Name

// Exit codes of a sandbox whose helper could not start the agent, with a
// sentence on stderr.
const (
	ExitUsage         = inside.ExitUsage         // the helper could not do its part
	ExitNotExecutable = inside.ExitNotExecutable // the agent's program can not be run
	ExitNotFound      = inside.ExitNotFound      // it is not there
)

// Options are what a sandbox's helper is to do besides starting the agent.
type Options struct {
	// Socket is where the sandbox finds the gateway's unix socket; "": the
	// helper does not listen.
	Socket string

	// Confine bounds the agent's files by Landlock, where the backend does not
	// itself (Capabilities.Images is false) and the kernel can (LandlockSupported).
	// Nil: it does not.
	Confine *Confinement

	// Control lets the runner give the helper commands within the sandbox's
	// standard input: backends.ControlSweep, backends.ControlRest and backends.ControlWake.
	Control bool
}

// Command puts the helper in front of argv, for a sandbox of these
// capabilities. It returns the command line and what must be mounted for it.
// The environment's values may hold AddressToken.
func (p *Program) Command(c backends.Capabilities, argv []string, o Options) ([]string, []backends.Mount, error) {
	if len(argv) == 0 {
		return nil, nil, errors.New("command line of the helper: the agent's is empty")
	}
	in := inside.Options{Socket: o.Socket, Control: o.Control, Argv: argv}
	program := p.path
	var mounts []backends.Mount
	if c.Images {
		if p.linux == "" {
			return nil, nil, fmt.Errorf("the sandbox's helper: %w", p.missing)
		}
		m := backends.Mount{Source: p.linux, Target: Target, ReadOnly: true}
		program, mounts = c.Path(m), []backends.Mount{m}
	} else if o.Confine != nil {
		in.ReadWrite = slices.Clone(o.Confine.ReadWrite)
		in.ReadOnly = slices.Clone(o.Confine.ReadOnly)
	}
	return append([]string{program}, in.Args()...), mounts, nil
}
