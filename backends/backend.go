// Package backends defines what runs a sandbox: the Backend and Sandbox
// interfaces, the values they exchange, and the registry that builds backends
// from the configuration. It knows nothing of agents, sessions or HTTP.
//
// A sandbox is one isolated process tree. Its main process is the agent, and
// the agent's protocol is that process's standard input and output.
package backends

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"
)

// Backend starts sandboxes on one engine: a Docker host, a Podman service, or
// this machine's own processes. Its methods may be called from any goroutine,
// at the same time.
type Backend interface {
	// Name is the name that the configuration gives this backend. It labels
	// things for people; nothing decides by it.
	Name() string

	// Capabilities says what this backend does and does not do. It is cheap
	// and never talks to the engine; what only the engine knows is filled in
	// by the first Check that succeeds.
	Capabilities() Capabilities

	// Check reports whether a sandbox could be started now. It returns within
	// ten seconds or at ctx's end, and its error says how to mend what is wrong.
	Check(ctx context.Context) (Status, error)

	// Start creates a sandbox and starts its main process. ctx bounds the
	// starting only: when it ends early, or anything fails on the way, nothing
	// of the half-made sandbox stays behind, and the error wraps ctx's where
	// that is the reason. A Spec that is not valid, or asks for what
	// Capabilities rules out, is ErrInvalidSpec, and so is a Mount whose Source
	// is not there; an image that is not there and may not be pulled is
	// ErrImageNotFound; an engine that does not answer is ErrUnavailable. A
	// second sandbox of the same name, be the first running or ended, is
	// ErrExists until the first is stopped. A program that is not there is
	// ErrInvalidSpec or, where the engine's own init starts it, exit code 127.
	Start(ctx context.Context, spec Spec) (Sandbox, error)

	// List names the sandboxes of this runner (its instance's label) that the
	// engine still knows, running or ended.
	List(ctx context.Context) ([]Handle, error)

	// Recover takes over a sandbox that an earlier process started. Its Stdout
	// begins at byte `from` of the main process's output. The beginning of a
	// line that is not finished may come only when it is, or when the process
	// has ended. Stdin may be closed already (Capabilities.RecoverStdin). A
	// sandbox that is gone is ErrNotFound.
	Recover(ctx context.Context, h Handle, from int64) (Sandbox, error)

	// Close lets go of the engine's connection. Sandboxes go on running.
	Close() error
}

// Remove stops a sandbox that an earlier process started, as Stop does. One that is
// gone is no error.
func Remove(ctx context.Context, b Backend, h Handle, grace time.Duration) error {
	s, err := b.Recover(ctx, h, 0)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.Stop(ctx, grace)
}

// Sandbox is one started process tree. Stdin, Stdout and Stderr each want one
// reader or writer; all else may be called from any goroutine, at any time.
type Sandbox interface {
	// Handle names the sandbox for Recover.
	Handle() Handle

	// Stdin is the main process's standard input. Close delivers end of file.
	// After Stop a write is ErrStopped; one that waits then returns an error.
	Stdin() io.WriteCloser

	// Stdout is the main process's standard output, every byte of it, in
	// order. It must be read: a process that writes more than the engine
	// buffers waits for the reader. It ends with io.EOF once the process has
	// ended and all is read.
	Stdout() io.Reader

	// Stderr gives what the main process wrote to standard error. The last
	// StderrLimit bytes are kept without being read; the writer waits, at most,
	// for Stdout to be read. Each call returns a reader over what is kept at
	// that moment; it is complete after Wait. Where an engine stores all that was
	// written, the reader has a method Written() int64 that says how much it was.
	Stderr() io.Reader

	// Wait returns once the main process has ended and its output has been
	// read to the end. A non-zero exit code is data, not an error; an error
	// means that the outcome is not known. It may be called many times.
	Wait(ctx context.Context) (Exit, error)

	// Stop ends the whole tree: it asks the main process (SIGTERM), waits up
	// to grace, kills all that is left, and returns when every process,
	// container, mount and socket of the sandbox is gone for certain, also
	// when the sandbox has ended on its own. It is idempotent. After Stop,
	// Stdout ends and Wait returns. Every sandbox is stopped once: a sandbox
	// that nobody stops keeps its remains for Recover.
	Stop(ctx context.Context, grace time.Duration) error

	// Usage reports what the tree has used so far, and the memory that it uses
	// now: measured when it is called, so that the figures of a sandbox that
	// runs are current. Where the engine runs on this host that takes no request
	// to it, beyond the first, as a rule. After the end, and after Stop, it
	// returns the last figures known. Figures that the backend does not have are
	// zero.
	Usage(ctx context.Context) (Usage, error)
}

// StderrLimit is how many bytes of standard error a sandbox keeps: the last.
const StderrLimit = 64 << 10

// HostAlias is the host name by which a sandbox reaches the runner's host. A
// backend whose sandboxes share the host's network replaces the name in the
// values of the environment by "localhost".
const HostAlias = "host.docker.internal"

// GatewayAddress, in the values of a sandbox's environment, stands for the host
// and port at which the helper in the sandbox lets it out.
const GatewayAddress = "gateway.claude-runner.invalid"

// Handle names a sandbox across restarts of the runner. It is small and fit
// to be stored; Data is the backend's own.
type Handle struct {
	Backend string            `json:"backend"`        // the backend's configured name
	ID      string            `json:"id"`             // the engine's id
	Name    string            `json:"name"`           // Spec.Name
	Version int               `json:"version"`        // of Data's form
	Labels  map[string]string `json:"labels"`         // Spec.Labels
	Data    json.RawMessage   `json:"data,omitempty"` // opaque
}

// Exit says how a sandbox's main process ended. Exactly one of a code and a
// signal is set: Signal is zero for a process that exited by itself.
//
// An engine that reports a signal only as exit code 128+n is read that way.
type Exit struct {
	Code      int  `json:"code"`                // 0 to 255; -1 after a signal
	Signal    int  `json:"signal,omitempty"`    // Linux's number, 9 for SIGKILL
	OOMKilled bool `json:"oomKilled,omitempty"` // the memory limit ended it
	TimedOut  bool `json:"timedOut,omitempty"`  // Spec.Timeout ended it
	Stopped   bool `json:"stopped,omitempty"`   // Stop ended it
}

// Usage is what a sandbox's processes have used.
type Usage struct {
	CPU        time.Duration `json:"cpu"`        // processor time, user and system
	Memory     int64         `json:"memory"`     // bytes in use now; page cache that the kernel can drop at once is not counted
	MemoryPeak int64         `json:"memoryPeak"` // bytes
}

// Status is what Check found.
type Status struct {
	Version string   `json:"version,omitempty"` // of the engine
	Notes   []string `json:"notes,omitempty"`   // what works less well than asked for, a sentence each
}
