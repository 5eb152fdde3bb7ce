package podman

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"claude-runner/backends"
)

// labelRecord holds a record, as JSON. The labels that an image brings are
// among a container's own, so these are not what List returns.
const labelRecord = "claude-runner.sandbox"

// record is what a later process has to know of a sandbox.
type record struct {
	Name     string            `json:"name"`
	Labels   map[string]string `json:"labels,omitempty"`
	Deadline time.Time         `json:"deadline,omitzero"` // by Spec.Timeout
	Start    string            `json:"start"`             // differs between two starts of one name
	Log      string            `json:"log,omitempty"`     // the output's log, where the engine was told its path
}

// containerName is the name of a sandbox on the engine, which other runners
// use too.
func (b *Backend) containerName(name string) string {
	return fmt.Sprintf("claude-runner-%.4x-%s", sha256.Sum256([]byte(b.opts.Instance)), name)
}

// resolveUser works out who the sandbox's processes are.
func (b *Backend) resolveUser(e *engine, u backends.User) (backends.User, error) {
	if fixed := e.fixedUser(b.addr); fixed != nil {
		if u != (backends.User{}) && u != *fixed {
			return u, fmt.Errorf("%w: user %d:%d, but sandboxes of a rootless podman are its owner, %d:%d", backends.ErrInvalidSpec, u.UID, u.GID, fixed.UID, fixed.GID)
		}
		return e.owner(), nil
	}
	own := backends.User{UID: os.Geteuid(), GID: os.Getegid()}
	if u == (backends.User{}) {
		u = backends.OwnUser(b.opts.User)
	}
	switch {
	case u.UID == 0:
		return u, fmt.Errorf("%w: a sandbox does not run as root; configure another user", backends.ErrInvalidSpec)
	case own.UID != 0 && u != own:
		return u, fmt.Errorf("%w: user %d:%d, but a runner that is not root gives sandboxes its own, %d:%d", backends.ErrInvalidSpec, u.UID, u.GID, own.UID, own.GID)
	}
	return u, nil
}

// request makes of a valid spec what the engine is asked to create, but for
// the labels.
func (b *Backend) request(e *engine, spec backends.Spec) (*createRequest, error) {
	user, err := b.resolveUser(e, spec.User)
	if err != nil {
		return nil, err
	}
	mounts, err := mounts(e, spec)
	if err != nil {
		return nil, err
	}
	r := &createRequest{
		Name:            b.containerName(spec.Name),
		Image:           spec.Image,
		ImageVolumes:    "ignore",
		Entrypoint:      spec.Argv[:1],
		Command:         spec.Argv[1:],
		Env:             spec.Env,
		WorkDir:         spec.Dir,
		User:            fmt.Sprintf("%d:%d", user.UID, user.GID),
		Stdin:           true,
		Init:            true,
		Systemd:         "false",
		Runtime:         b.cfg.Runtime,
		CapDrop:         []string{"ALL"},
		CapAdd:          spec.Hardening.Capabilities,
		NoNewPrivileges: !spec.Hardening.NewPrivileges,
		ReadOnly:        !spec.Hardening.WritableRoot,
		Volatile:        true, // else its end waits until all that this host has to write is on the disk
		Mounts:          mounts,
		Resources:       limitResources(e, spec.Limits),
		RLimits:         limitProcesses(e, spec.Limits),
		Log:             logConfig{Driver: "k8s-file"},
	}
	if r.WorkDir == "" {
		r.WorkDir = "/"
	}
	if filter := spec.Hardening.Seccomp; filter != backends.SeccompDefault {
		r.Seccomp = filter // a path is read by the service, on this host
	}
	if spec.Hardening.UnmaskedProc {
		r.Unmask = []string{"ALL"}
	}
	if e.rootless() {
		r.UserNS = &namespace{"keep-id"}
	}
	network(e, spec.Network, r)
	return r, nil
}

func (b *Backend) labels(rec record) (map[string]string, error) {
	text, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	labels := maps.Clone(rec.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[backends.LabelManaged] = "true"
	labels[backends.LabelInstance] = b.opts.Instance
	labels[labelRecord] = string(text)
	return labels, nil
}

// logPath says where the engine is to write a sandbox's log, "" for its own
// place. That is closed to all but root: it belongs to the user whom the
// sandbox sees as root. A path with a colon is cut there by the engine.
func (b *Backend) logPath(e *engine, start string) (string, error) {
	own := os.Geteuid()
	if b.opts.StateDir == "" || strings.Contains(b.opts.StateDir, ":") || own == 0 || runtime.GOOS == "linux" && own != e.owner().UID {
		return "", nil
	}
	dir := filepath.Join(b.opts.StateDir, "logs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the folder of the sandboxes' logs: %w", err)
	}
	return filepath.Join(dir, start+".log"), nil
}

// removeLog removes the log that the engine leaves behind.
func (r record) removeLog() error {
	if r.Log == "" {
		return nil
	}
	if err := os.Remove(r.Log); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the log: %w", err)
	}
	return nil
}

// mounts lists the host's folders and files, and the folders in memory.
func mounts(e *engine, spec backends.Spec) ([]mount, error) {
	var out []mount
	for _, m := range spec.Mounts {
		if err := m.CheckSource(); err != nil {
			return nil, err
		}
		options := []string{"rbind", "rprivate", "nosuid", "nodev", "rw"}
		if m.ReadOnly {
			options[len(options)-1] = "ro"
		}
		if e.info.Host.Security.SELinux {
			options = append(options, "z") // else the host's policy keeps containers out
		}
		out = append(out, mount{Type: "bind", Source: m.Source, Destination: m.Target, Options: options})
	}
	for _, path := range slices.Sorted(maps.Keys(spec.Limits.Tmpfs)) {
		out = append(out, mount{Type: "tmpfs", Source: "tmpfs", Destination: path, Options: []string{
			"rw", "exec", "nosuid", "nodev", "notmpcopyup", "mode=1777", fmt.Sprintf("size=%d", spec.Limits.Tmpfs[path]),
		}})
	}
	return out, nil
}

// limitResources asks for the limits that the engine holds. It ignores the
// others, or refuses the container.
func limitResources(e *engine, l backends.Limits) *resources {
	r := &resources{}
	if l.Memory > 0 && e.holds("memory") {
		r.Memory = &memoryLimit{Limit: l.Memory, Swap: l.Memory}
	}
	if l.CPUs > 0 && e.holds("cpu") {
		const period = 100_000 // microseconds, the kernel's default; a quota has at least 1000
		r.CPU = &cpuLimit{Period: period, Quota: max(1000, int64(math.Round(l.CPUs*period)))}
	}
	if l.PIDs > 0 && e.holds("pids") {
		r.PIDs = &pidsLimit{Limit: l.PIDs}
	}
	if *r == (resources{}) {
		return nil
	}
	return r
}

func limitProcesses(e *engine, l backends.Limits) []rlimit {
	var out []rlimit
	if l.OpenFiles > 0 {
		n := uint64(l.OpenFiles)
		if e.maxOpenFiles > 0 {
			n = min(n, e.maxOpenFiles) // a stricter limit holds already, and a laxer one is refused
		}
		out = append(out, rlimit{Type: "nofile", Soft: n, Hard: n})
	}
	if l.CPUTime > 0 {
		// SIGXCPU at the soft limit, SIGKILL a second later.
		n := uint64(math.Ceil(l.CPUTime.Seconds()))
		out = append(out, rlimit{Type: "cpu", Soft: n, Hard: n + 1})
	}
	return out
}
