package backends

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Hardening says what of a sandbox's walls is taken down. The zero value takes
// down none: each field is a need that some agent's tools may have, and what it
// costs. A backend without Capabilities.Images has no such walls and ignores it.
type Hardening struct {
	// WritableRoot lets the sandbox write to its image's files, where their
	// modes do: for tools that install packages. What they write is the
	// engine's to store, and no limit bounds it.
	WritableRoot bool `koanf:"writable_root" json:"writableRoot,omitempty"`

	// Capabilities are the kernel's capabilities that programs may have, such as
	// NET_RAW for ping. The sandbox's processes are not root: they get one only by
	// a program that has it as a file capability, with NewPrivileges.
	Capabilities []string `koanf:"capabilities" json:"capabilities,omitempty"`

	// NewPrivileges lets set-user-id programs and file capabilities have their
	// effect: for sudo and its like. A flaw in one of them makes a process root
	// in its sandbox.
	NewPrivileges bool `koanf:"new_privileges" json:"newPrivileges,omitempty"`

	// Seccomp is the filter of system calls: SeccompDefault, the engine's own;
	// SeccompUnconfined, none, for debuggers and sandboxes in the sandbox, which
	// opens all of the kernel to attacks; or the path of a filter on this host, in
	// the engine's JSON. Empty: SeccompDefault.
	Seccomp string `koanf:"seccomp" json:"seccomp,omitempty"`

	// UnmaskedProc shows what engines hide or protect in /proc and /sys: for
	// containers in the sandbox. There are secrets of the host's kernel in it.
	UnmaskedProc bool `koanf:"unmasked_proc" json:"unmaskedProc,omitempty"`
}

// What Hardening.Seccomp may be beside a path.
const (
	SeccompDefault    = "default"
	SeccompUnconfined = "unconfined"
)

// Loosened says what of a sandbox's walls is down, a sentence each.
func (h Hardening) Loosened() []string {
	var out []string
	note := func(loose bool, format string, args ...any) {
		if loose {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	note(h.WritableRoot, "hardening.writable_root: the sandbox can write to its image's files, and no limit bounds how much")
	note(len(h.Capabilities) > 0, "hardening.capabilities: programs of the sandbox may have %s", strings.Join(h.Capabilities, ", "))
	note(h.NewPrivileges, "hardening.new_privileges: set-user-id programs make processes root in their sandbox")
	switch h.Seccomp {
	case "", SeccompDefault:
	case SeccompUnconfined:
		note(true, "hardening.seccomp: no system call is filtered")
	default:
		note(true, "hardening.seccomp: the filter of system calls is %s, not the engine's", h.Seccomp)
	}
	note(h.UnmaskedProc, "hardening.unmasked_proc: all of /proc and /sys is shown")
	return out
}

var capabilityForm = regexp.MustCompile(`^[A-Z][A-Z_]*$`)

// Check reports the first thing in h that no backend could do, by the name of
// its key.
func (h Hardening) Check() (key string, err error) {
	for _, c := range h.Capabilities {
		if !capabilityForm.MatchString(c) || strings.HasPrefix(c, "CAP_") || c == "ALL" {
			return "capabilities", fmt.Errorf("%q is not the name of one capability: write it as NET_RAW, without CAP_", c)
		}
	}
	switch h.Seccomp {
	case "", SeccompDefault, SeccompUnconfined:
	default:
		if !filepath.IsAbs(h.Seccomp) {
			return "seccomp", fmt.Errorf("%q: want %s, %s, or the absolute path of a filter", h.Seccomp, SeccompDefault, SeccompUnconfined)
		}
	}
	return "", nil
}

// engineSockets are where engines listen. Whoever can write to one is root of
// the host, or its owner.
var engineSockets = []string{
	"/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock", "/run/crio/crio.sock",
	"/run/buildkit/buildkitd.sock", "/run/user/*/docker.sock", "/run/user/*/podman/podman.sock",
}

// CheckMounts refuses mounts that show the sandbox an engine: a socket, or a
// folder that an engine's socket is in. Beside the usual places, own are those
// that the backend knows of. Its error is an ErrInvalidSpec.
func CheckMounts(mounts []Mount, own ...string) error {
	for _, m := range mounts {
		source := resolved(m.Source)
		if info, err := os.Stat(source); err == nil && info.Mode()&os.ModeSocket != 0 {
			return fmt.Errorf("%w: mount %s: it is a socket; only folders are mounted", ErrInvalidSpec, m.Source)
		}
		for _, socket := range append(own, engineSockets...) {
			if holds(source, resolved(socket)) {
				return fmt.Errorf("%w: mount %s: a container engine's socket is in it (%s), with which a sandbox would own this host", ErrInvalidSpec, m.Source, socket)
			}
		}
	}
	return nil
}

// resolved returns a path without links, as far as it is there.
func resolved(path string) string {
	path = filepath.Clean(path)
	rest := ""
	for p := path; ; p = filepath.Dir(p) {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			return filepath.Join(real, rest)
		}
		if p == filepath.Dir(p) {
			return path
		}
		rest = filepath.Join(filepath.Base(p), rest)
	}
}

// holds reports whether socket, a pattern, is folder or in it.
func holds(folder, socket string) bool {
	for p := socket; ; p = filepath.Dir(p) {
		if ok, err := filepath.Match(p, folder); ok && err == nil {
			return true
		}
		if p == filepath.Dir(p) {
			return false
		}
	}
}
