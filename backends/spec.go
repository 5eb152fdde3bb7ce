package backends

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// Spec describes one sandbox.
type Spec struct {
	// Name is unique among the runner's sandboxes: letters, digits, '-', '_'
	// and '.', at most 63 of them.
	Name string
	// Labels are kept by the engine and returned in the Handle. The backend
	// adds its own (LabelInstance, LabelManaged).
	Labels map[string]string

	Image  string             // ignored where Capabilities.Images is false
	Pull   PullPolicy         // when Image is looked for in its registry
	OnPull func(PullProgress) // called now and then while an image is pulled; may be nil

	Argv []string // the main process, UTF-8; Argv[0] is looked up in the sandbox's PATH

	// Env is the whole environment, but for PATH, which the backend gives where
	// it is absent, and for what the image and its engine set for every process
	// (HOME, HOSTNAME and the like; Env has precedence). Nothing comes from the
	// runner's own environment, and no value is in any process's arguments. Names
	// and values are UTF-8.
	Env map[string]string

	// Dir is the working folder, a path inside the sandbox; "" is "/". One that
	// is not there is ErrInvalidSpec, but for engines that make it.
	Dir string

	Mounts  []Mount     // folders and files of this host
	User    User        // who the processes are; they can not gain privileges
	Limits  Limits      // zero: no limit
	Network NetworkMode // "": NetworkOpen

	Hardening Hardening // zero: all walls are up

	// Timeout bounds the sandbox's whole life; at its end the tree is killed
	// and Exit.TimedOut is set. Zero: no bound.
	Timeout time.Duration
}

// Mount makes a folder of this host visible in the sandbox, or a regular file,
// which must be ReadOnly: a program that writes a file anew would only change
// its own. Where Capabilities.MountsAtTarget is false the sandbox sees it at
// Source.
type Mount struct {
	Source   string // absolute, exists
	Target   string // absolute
	ReadOnly bool   // where Capabilities.ReadOnlyMounts
}

// User is the user and group that the sandbox's processes have on this host.
// The zero User means the runner's own or, where that is root, Options.User; a
// backend that would run processes of the host as root refuses to.
type User struct {
	UID int `json:"uid"`
	GID int `json:"gid"`
}

// Limits bound a sandbox. What a backend cannot hold is said by its
// Capabilities, and the rest is held all the same.
type Limits struct {
	Memory    int64            // bytes, swap included
	CPUs      float64          // processors; 0.5 is half of one
	PIDs      int64            // processes and threads
	OpenFiles int64            // per process
	CPUTime   time.Duration    // processor time per process
	Tmpfs     map[string]int64 // writable folders in memory: path to bytes
}

// NetworkMode says what a sandbox reaches.
type NetworkMode string

const (
	NetworkOpen NetworkMode = "open" // the engine's usual network, and HostAlias
	NetworkNone NetworkMode = "none" // no interface but loopback, to which localhost leads
)

// PullPolicy says when an image is looked for in its registry.
type PullPolicy string

const (
	PullMissing PullPolicy = "missing" // only where the engine does not have it; the default
	PullNever   PullPolicy = "never"
	PullAlways  PullPolicy = "always"
)

// PullProgress is a moment of an image's pull.
type PullProgress struct {
	Image   string `json:"image"`
	Status  string `json:"status"`            // the engine's words
	Current int64  `json:"current,omitempty"` // bytes so far, all layers
	Total   int64  `json:"total,omitempty"`   // bytes, of the layers known so far
}

// Labels that every backend sets.
const (
	LabelManaged  = "claude-runner.managed"  // "true"
	LabelInstance = "claude-runner.instance" // which runner's data folder it belongs to
)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// Validate reports the first thing in s that no sandbox could have. Its error
// is an ErrInvalidSpec.
func (s Spec) Validate() error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrInvalidSpec}, args...)...)
	}
	if !nameForm.MatchString(s.Name) {
		return invalid("name %q: want 1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit", s.Name)
	}
	if len(s.Argv) == 0 || s.Argv[0] == "" {
		return invalid("argv is empty")
	}
	for _, a := range s.Argv {
		if !isText(a) {
			return invalid("argv holds a NUL byte or is not UTF-8")
		}
	}
	for k, v := range s.Env {
		if k == "" || strings.Contains(k, "=") || !isText(k) || !isText(v) {
			return invalid("environment variable %q: a name has no '=', and both parts are UTF-8 without NUL bytes", k)
		}
	}
	if s.Dir != "" && !path.IsAbs(s.Dir) {
		return invalid("working folder %q is not absolute", s.Dir)
	}
	for _, m := range s.Mounts {
		if !filepath.IsAbs(m.Source) || !path.IsAbs(m.Target) {
			return invalid("mount %q to %q: both paths must be absolute", m.Source, m.Target)
		}
	}
	if err := CheckMounts(s.Mounts); err != nil {
		return err
	}
	if _, err := s.Hardening.Check(); err != nil {
		return invalid("hardening: %w", err)
	}
	for p, n := range s.Limits.Tmpfs {
		if !path.IsAbs(p) || n <= 0 {
			return invalid("tmpfs %q of %d bytes: want an absolute path and a size above zero", p, n)
		}
	}
	if s.Limits.Memory < 0 || s.Limits.CPUs < 0 || s.Limits.PIDs < 0 || s.Limits.OpenFiles < 0 || s.Limits.CPUTime < 0 || s.Timeout < 0 {
		return invalid("a limit is below zero")
	}
	switch s.Network {
	case "", NetworkOpen, NetworkNone:
	default:
		return invalid("network %q: want %q or %q", s.Network, NetworkOpen, NetworkNone)
	}
	switch s.Pull {
	case "", PullMissing, PullNever, PullAlways:
	default:
		return invalid("pull policy %q: want %q, %q or %q", s.Pull, PullMissing, PullNever, PullAlways)
	}
	return nil
}

// CheckSource reports a Source that is not there, or is neither a folder nor a
// regular file that is ReadOnly. Its error is an ErrInvalidSpec. A Source that
// this process may not see is left to the engine, which may.
func (m Mount) CheckSource() error {
	info, err := os.Stat(m.Source)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: mount %s: there is no such folder or file", ErrInvalidSpec, m.Source)
	case err != nil:
		return fmt.Errorf("%w: mount: %w", ErrInvalidSpec, err)
	case info.Mode().IsRegular() && !m.ReadOnly:
		return fmt.Errorf("%w: mount %s: a file can only be mounted read-only; mount the folder that it is in", ErrInvalidSpec, m.Source)
	case !info.IsDir() && !info.Mode().IsRegular():
		return fmt.Errorf("%w: mount %s: it is neither a folder nor a regular file", ErrInvalidSpec, m.Source)
	}
	return nil
}

// isText says whether every engine can be told s: their APIs speak JSON.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }
