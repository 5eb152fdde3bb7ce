package backends

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/docker/go-units"
)

// Isolation is how well a sandbox is held apart from the host.
type Isolation string

const (
	IsolationNone      Isolation = "none"      // a plain process of the host
	IsolationContainer Isolation = "container" // namespaces and cgroups of the host's kernel
	IsolationUserspace Isolation = "userspace" // a kernel of its own in user space (gVisor)
)

// Capabilities says what a backend does. Code outside a backend decides by
// these fields alone, and the conformance suite holds each against behaviour.
type Capabilities struct {
	Isolation Isolation `json:"isolation"`

	// Images: Spec.Image is what the sandbox's files come from, and nothing of
	// them can be written but Mounts and Limits.Tmpfs. Otherwise the sandbox
	// sees the host's files, and writes what Spec.User may write.
	Images bool `json:"images"`

	// MountsAtTarget: a Mount appears at its Target. Otherwise it is seen at
	// its Source, and paths given to the agent must say so (see Path).
	MountsAtTarget bool `json:"mountsAtTarget"`

	// ReadOnlyMounts: Mount.ReadOnly is held. Otherwise only the folder's own
	// owner and mode keep the sandbox from writing there.
	ReadOnlyMounts bool `json:"readOnlyMounts"`

	// Sockets: a unix socket on which a process of this host listens, in a
	// mounted folder, can be connected to from the sandbox. It can not where
	// the sandbox has a kernel of its own, or a policy keeps it from that.
	Sockets bool `json:"sockets"`

	// BindMounts: the engine reads this host's folders. A backend without them
	// runs elsewhere and can not be used yet.
	BindMounts bool `json:"bindMounts"`

	// Networks lists the modes that Spec.Network may have.
	Networks []NetworkMode `json:"networks"`

	// Enforced says which limits are held.
	Enforced EnforcedLimits `json:"enforced"`

	// Recover: Recover works. RecoverStdin: with a standard input that is
	// still open.
	Recover      bool `json:"recover"`
	RecoverStdin bool `json:"recoverStdin"`

	// FixedUser, where set, is the only user that Spec.User may be: the owner
	// of a rootless engine. Whoever prepares folders gives them to this user.
	FixedUser *User `json:"fixedUser,omitempty"`

	// Warning is a sentence for whoever starts the runner, where sandboxes of
	// this backend are less than a production service needs.
	Warning string `json:"warning,omitempty"`
}

// EnforcedLimits says of each field of Limits whether the backend holds it.
type EnforcedLimits struct {
	Memory    bool `json:"memory"`
	CPUs      bool `json:"cpus"`
	PIDs      bool `json:"pids"`
	OpenFiles bool `json:"openFiles"`
	CPUTime   bool `json:"cpuTime"`
	Tmpfs     bool `json:"tmpfs"`
}

// Path returns where a sandbox of this backend sees m.
func (c Capabilities) Path(m Mount) string {
	if c.MountsAtTarget {
		return m.Target
	}
	return m.Source
}

// SandboxUser is who sandboxes are, and who owns the folders that they have:
// OwnUser, or FixedUser where the runner is root.
func (c Capabilities) SandboxUser(unprivileged User) User {
	if os.Geteuid() == 0 && c.FixedUser != nil {
		return *c.FixedUser
	}
	return OwnUser(unprivileged)
}

// OwnUser is the user of this process, whose files no other can use, or where
// that is root the unprivileged one.
func OwnUser(unprivileged User) User {
	if uid := os.Geteuid(); uid != 0 {
		return User{UID: uid, GID: os.Getegid()}
	}
	return unprivileged
}

// Unenforced names the limits of l that a backend with capabilities c does not
// hold, a sentence each.
func (c Capabilities) Unenforced(l Limits) []string {
	var out []string
	note := func(wanted, held bool, what string, value any) {
		if wanted && !held {
			out = append(out, fmt.Sprintf("%s limit of %v is not enforced by this backend on this host", what, value))
		}
	}
	note(l.Memory > 0, c.Enforced.Memory, "memory", units.BytesSize(float64(l.Memory)))
	note(l.CPUs > 0, c.Enforced.CPUs, "cpus", l.CPUs)
	note(l.PIDs > 0, c.Enforced.PIDs, "pids", l.PIDs)
	note(l.OpenFiles > 0, c.Enforced.OpenFiles, "open_files", l.OpenFiles)
	note(l.CPUTime > 0, c.Enforced.CPUTime, "cpu_time", l.CPUTime)
	for _, p := range slices.Sorted(maps.Keys(l.Tmpfs)) {
		note(true, c.Enforced.Tmpfs, "tmpfs "+p, units.BytesSize(float64(l.Tmpfs[p])))
	}
	return out
}
