package docker

import (
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"

	"claude-runner/backends"
)

// containerConfig says what the container of a sandbox is. All of the image
// that would change how it runs is overridden: entrypoint, command, user,
// environment, working folder, health check.
func containerConfig(spec backends.Spec, user backends.User, e *engine, img image.InspectResponse) *container.Config {
	dir := spec.Dir
	if dir == "" {
		dir = "/"
	}
	if e.fixedUser != nil {
		user = backends.User{} // root of a rootless engine is its owner
	}
	return &container.Config{
		Image:        spec.Image,
		Entrypoint:   spec.Argv,
		Env:          environment(spec, img),
		WorkingDir:   dir,
		User:         fmt.Sprintf("%d:%d", user.UID, user.GID),
		Healthcheck:  &container.HealthConfig{Test: []string{"NONE"}},
		OpenStdin:    true,
		StdinOnce:    true, // its end reaches the process, also by the runner's death
		AttachStdin:  true,
		AttachStdout: true,
		AttachStderr: true,
	}
}

// hostConfig says what the container may do and use.
func hostConfig(cfg Config, spec backends.Spec, e *engine) (*container.HostConfig, error) {
	security, err := securityOptions(spec.Hardening)
	if err != nil {
		return nil, err
	}
	init := true
	h := &container.HostConfig{
		Runtime:        cfg.Runtime,
		Init:           &init,
		ReadonlyRootfs: !spec.Hardening.WritableRoot,
		CapDrop:        []string{"ALL"},
		CapAdd:         spec.Hardening.Capabilities,
		SecurityOpt:    security,
		IpcMode:        container.IPCModePrivate,
		UsernsMode:     "host", // Spec.User is a user of this host, also where the engine remaps users
		RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyDisabled},
		Mounts:         mounts(spec.Mounts),
		Tmpfs:          tmpfs(spec.Limits.Tmpfs),
		LogConfig:      logConfig,
		Resources:      resources(spec.Limits, e),
	}
	if spec.Hardening.UnmaskedProc {
		h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{} // nil is the engine's own
	}
	return h, nil
}

// securityOptions gives the engine a filter's content: it would not read the
// file by itself.
func securityOptions(h backends.Hardening) ([]string, error) {
	var out []string
	if !h.NewPrivileges {
		out = append(out, "no-new-privileges")
	}
	switch h.Seccomp {
	case "", backends.SeccompDefault:
	case backends.SeccompUnconfined:
		out = append(out, "seccomp=unconfined")
	default:
		filter, err := os.ReadFile(h.Seccomp)
		if err != nil {
			return nil, fmt.Errorf("%w: hardening: read the seccomp filter: %w", backends.ErrInvalidSpec, err)
		}
		out = append(out, "seccomp="+string(filter))
	}
	return out, nil
}

// logConfig makes the engine keep every byte of the output, for Recover: this
// driver changes no byte, where the usual one takes all for UTF-8, and a log
// of this size is never rotated.
var logConfig = container.LogConfig{
	Type:   "local",
	Config: map[string]string{"max-size": "1000t", "max-file": "1", "compress": "false", "mode": "blocking"},
}

// environment returns Spec.Env, and takes away what the image and the engine
// would add to it, but for PATH: an entry without "=" removes a variable.
func environment(spec backends.Spec, img image.InspectResponse) []string {
	env := []string{}
	for _, name := range slices.Sorted(maps.Keys(spec.Env)) {
		env = append(env, name+"="+spec.Env[name])
	}
	others := []string{"HOSTNAME"}
	if img.Config != nil {
		for _, kv := range img.Config.Env {
			name, _, _ := strings.Cut(kv, "=")
			others = append(others, name)
		}
	}
	for _, name := range others {
		if _, given := spec.Env[name]; !given && name != "PATH" {
			env = append(env, name)
		}
	}
	return env
}

// mounts are given as such, not as text with colons, so that a path may hold
// any character and a source that is not there is an error.
func mounts(folders []backends.Mount) []mount.Mount {
	var out []mount.Mount
	for _, m := range folders {
		out = append(out, mount.Mount{
			Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly,
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate},
		})
	}
	return out
}

// tmpfs lets programs run from the folders, as from any other /tmp.
func tmpfs(sizes map[string]int64) map[string]string {
	out := map[string]string{}
	for path, size := range sizes {
		out[path] = fmt.Sprintf("rw,exec,nosuid,nodev,mode=1777,size=%d", size)
	}
	return out
}

const cpuPeriod = 100 * time.Millisecond

// resources gives the processors as a quota: unlike NanoCPUs it may be above
// what the host has. The number of processes is limited only where it is theirs
// that counts: of gVisor the engine counts the threads of the kernel itself,
// which needs more of them than a sandbox may have.
func resources(l backends.Limits, e *engine) container.Resources {
	r := container.Resources{
		Memory:     l.Memory,
		MemorySwap: l.Memory, // of both together, so that there is no swap
		Ulimits:    []*container.Ulimit{{Name: "core"}},
	}
	if l.PIDs > 0 && e.isolation != backends.IsolationUserspace {
		// The init process of the engine counts too.
		pids := l.PIDs + 1
		r.PidsLimit = &pids
	}
	if l.CPUs > 0 {
		r.CPUPeriod = cpuPeriod.Microseconds()
		r.CPUQuota = int64(math.Ceil(l.CPUs * float64(r.CPUPeriod)))
	}
	if l.OpenFiles > 0 {
		r.Ulimits = append(r.Ulimits, &container.Ulimit{Name: "nofile", Soft: l.OpenFiles, Hard: l.OpenFiles})
	}
	if l.CPUTime > 0 {
		seconds := int64(math.Ceil(l.CPUTime.Seconds()))
		r.Ulimits = append(r.Ulimits, &container.Ulimit{Name: "cpu", Soft: seconds, Hard: seconds})
	}
	return r
}

// user returns who the sandbox's processes are, which is never root of this
// host, and nobody else than the runner unless that is root.
func (b *Backend) user(spec backends.Spec, e *engine) (backends.User, error) {
	u, own := spec.User, backends.User{UID: os.Geteuid(), GID: os.Getegid()}
	if u == (backends.User{}) {
		if u = backends.OwnUser(b.nobody); e.fixedUser != nil {
			u = *e.fixedUser
		}
	}
	switch {
	case e.fixedUser != nil:
		if u != *e.fixedUser {
			return u, fmt.Errorf("%w: user %d:%d: this engine is rootless and runs sandboxes as its owner %d:%d alone",
				backends.ErrInvalidSpec, u.UID, u.GID, e.fixedUser.UID, e.fixedUser.GID)
		}
	case u.UID <= 0 || u.GID < 0:
		return u, fmt.Errorf("%w: user %d:%d: a sandbox does not run as root of this host; name another user", backends.ErrInvalidSpec, u.UID, u.GID)
	case own.UID != 0 && u != own:
		return u, fmt.Errorf("%w: user %d:%d: a runner that is not root runs sandboxes as itself (%d:%d) alone",
			backends.ErrInvalidSpec, u.UID, u.GID, own.UID, own.GID)
	}
	return u, nil
}
