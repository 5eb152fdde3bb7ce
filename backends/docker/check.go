package docker

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/versions"

	"claude-runner/backends"
)

// checkPatience bounds Check, whose contract is ten seconds.
const checkPatience = 8 * time.Second

// minAPI is the API of Docker 20.10, the first whose containers can be told
// the host's address by name (host-gateway).
const minAPI = "1.41"

// noCgroups is the cgroup driver of an engine that has none.
const noCgroups = "none"

// engine is what the runner has to know of an engine.
type engine struct {
	isolation backends.Isolation
	fixedUser *backends.User // set where the engine is rootless
	enforced  backends.EnforcedLimits
	sockets   bool // a sandbox can connect to this host's sockets
	files     bool // it mounts any file of this host, and a sandbox can read it
	cgroups   bool // without them what it says of a container's use is the host's
}

// Check asks the engine what it is, and refuses one that can not run sandboxes.
func (b *Backend) Check(ctx context.Context) (backends.Status, error) {
	if b.at.remote != nil {
		return backends.Status{}, fmt.Errorf("%w: %w", backends.ErrUnavailable, b.at.remote)
	}
	ctx, cancel := bounded(ctx, checkPatience)
	defer cancel()
	info, err := b.cli.Info(ctx)
	if err != nil {
		return backends.Status{}, b.engineError(ctx, "ask the docker engine what it is", err)
	}
	if err := b.usable(info); err != nil {
		return backends.Status{}, fmt.Errorf("%w: docker engine at %s: %w", backends.ErrUnavailable, b.at.host, err)
	}
	e, notes, err := b.examine(info)
	if err != nil {
		return backends.Status{}, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	b.mu.Lock()
	b.known = e
	b.mu.Unlock()
	return backends.Status{Version: info.ServerVersion, Notes: notes}, nil
}

// checked returns what is known of the engine, after a Check where nothing is.
func (b *Backend) checked(ctx context.Context) (*engine, error) {
	if e := b.engine(); e != nil {
		return e, nil
	}
	if _, err := b.Check(ctx); err != nil {
		return nil, err
	}
	return b.engine(), nil
}

// usable says why an engine could not run sandboxes at all.
func (b *Backend) usable(info system.Info) error {
	if api := b.cli.ClientVersion(); versions.LessThan(api, minAPI) {
		return fmt.Errorf("version %s with API %s is too old; install Docker 20.10 or newer (API %s)", info.ServerVersion, api, minAPI)
	}
	if info.OSType != "linux" {
		return fmt.Errorf("it runs %s containers; switch it to Linux containers", info.OSType)
	}
	if r := b.cfg.Runtime; r != "" {
		if _, ok := info.Runtimes[r]; !ok {
			return fmt.Errorf("it has no runtime %q, only %s; register it under \"runtimes\" in the engine's daemon.json and restart the engine, or take the runtime out of this backend's configuration",
				r, strings.Join(sortedNames(info.Runtimes), ", "))
		}
	}
	return nil
}

// examine reads what sandboxes can count on, and the notes for whoever runs
// the runner.
func (b *Backend) examine(info system.Info) (*engine, []string, error) {
	onHost := sharesKernel(info) && !hasSecurity(info, "selinux")
	name := cmp.Or(b.cfg.Runtime, info.DefaultRuntime)
	r := info.Runtimes[name].Runtime
	e := &engine{
		isolation: isolation(name, filepath.Base(r.Path), r.Type),
		sockets:   onHost,
		files:     onHost && !hasSecurity(info, "rootless"),
		cgroups:   info.CgroupDriver != noCgroups,
		enforced: backends.EnforcedLimits{
			Memory: info.MemoryLimit, CPUs: info.CPUCfsPeriod && info.CPUCfsQuota, PIDs: info.PidsLimit,
			OpenFiles: true, CPUTime: true, Tmpfs: true,
		},
	}
	var notes []string
	note := func(when bool, format string, args ...any) {
		if when {
			notes = append(notes, fmt.Sprintf(format, args...))
		}
	}
	note(!e.enforced.Memory, "the engine can not limit memory; %s", cgroupAdvice(info))
	note(!e.enforced.CPUs, "the engine can not limit processors; %s", cgroupAdvice(info))
	note(!e.enforced.PIDs, "the engine can not limit the number of processes; %s", cgroupAdvice(info))
	note(e.enforced.Memory && !info.SwapLimit, "the engine can not limit swap, so a sandbox may use swap beyond its memory limit; boot the kernel with swapaccount=1, or turn swap off")
	note(!hasSecurity(info, "seccomp"), "the engine filters no system calls (seccomp is off)")
	note(hasSecurity(info, "selinux"), "SELinux keeps sandboxes from this host's unix sockets")
	if e.isolation == backends.IsolationUserspace {
		e.sockets = e.sockets && letsSockets(r.Args)
		note(!letsSockets(r.Args), "gVisor keeps sandboxes from this host's unix sockets, unless its runtime has the argument --host-uds=open (--fsgofer-host-uds before 2023) in the engine's daemon.json")
		e.enforced.PIDs, e.enforced.CPUTime = false, false
		note(true, "gVisor limits neither the number of processes nor their processor time; memory and processors bound the sandbox as a whole")
	}
	if hasSecurity(info, "rootless") {
		owner, err := b.at.owner()
		if err != nil {
			return nil, nil, fmt.Errorf("whose is the rootless docker engine at %s: %w", b.at.host, err)
		}
		e.fixedUser = &owner
		note(true, "the engine is rootless: sandboxes run as its owner, uid %d, whom they see as root, and some programs refuse to run as root", owner.UID)
		note(true, "the engine is rootless: %s leads to the engine's own network, where this host does not answer", backends.HostAlias)
	}
	return e, notes, nil
}

// isolation tells gVisor by its program's name, which is in the name of the
// runtime, of its program or of its shim.
func isolation(names ...string) backends.Isolation {
	for _, n := range names {
		if strings.Contains(n, "runsc") || strings.Contains(n, "gvisor") {
			return backends.IsolationUserspace
		}
	}
	return backends.IsolationContainer
}

// sharesKernel says whether the engine's containers run on this host's kernel:
// Docker Desktop, and every engine for macOS, has a virtual machine.
func sharesKernel(info system.Info) bool {
	return runtime.GOOS == "linux" && info.OperatingSystem != "Docker Desktop"
}

// letsSockets says whether gVisor's arguments let sandboxes connect to sockets
// of the host.
func letsSockets(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		switch strings.TrimLeft(arg, "-") {
		case "host-uds=open", "host-uds=all", "fsgofer-host-uds", "fsgofer-host-uds=true":
			return true
		}
		return false
	})
}

func cgroupAdvice(info system.Info) string {
	if info.CgroupDriver == noCgroups {
		return "rootless engines need cgroup v2 with systemd, and the controllers delegated to their user"
	}
	return "enable that cgroup controller in the kernel"
}

// hasSecurity reports whether the engine lists the option, as name=rootless or
// name=seccomp,profile=default.
func hasSecurity(info system.Info, option string) bool {
	return slices.ContainsFunc(info.SecurityOptions, func(s string) bool {
		return slices.Contains(strings.Split(s, ","), "name="+option)
	})
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
