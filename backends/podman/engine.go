package podman

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"claude-runner/backends"
)

// engine is what the service says of itself and of its host.
type engine struct {
	asked        time.Time
	info         info
	maxOpenFiles uint64 // more than which a container can not be given; 0: not known
}

func (e *engine) version() string { return e.info.Version.Version }

func (e *engine) rootless() bool { return e.info.Host.Security.Rootless }

// atLeast compares the engine's version.
func (e *engine) atLeast(major, minor int) bool {
	var x, y int
	if _, err := fmt.Sscanf(e.version(), "%d.%d", &x, &y); err != nil {
		return false
	}
	return x > major || x == major && y >= minor
}

// owner is the user whom a rootless service's user namespace maps to root.
func (e *engine) owner() backends.User {
	host := func(m []idMapping) int {
		for _, m := range m {
			if m.Container == 0 {
				return m.Host
			}
		}
		return -1
	}
	return backends.User{UID: host(e.info.Host.IDMappings.UIDs), GID: host(e.info.Host.IDMappings.GIDs)}
}

// fixedUser is whom the files of sandboxes belong to, nil where a sandbox may
// be anybody. A service in a virtual machine has users of its own, and its
// owner's files are on this host those of the socket's owner.
func (e *engine) fixedUser(a address) *backends.User {
	if !e.rootless() {
		return nil
	}
	if u := a.owner(); u != nil && runtime.GOOS != "linux" {
		return u
	}
	u := e.owner()
	return &u
}

// holds reports whether a cgroup controller limits what sandboxes use. On
// cgroup v1 only root may use the controllers, and rootless Podman ignores
// limits; on v2 the system delegates controllers to users.
func (e *engine) holds(controller string) bool {
	if e.rootless() && e.info.Host.CgroupVersion != "v2" {
		return false
	}
	return slices.Contains(e.info.Host.CgroupControllers, controller)
}

// usable says why no sandbox could be started, and how to mend it.
func (e *engine) usable() error {
	if os := e.info.Host.OS; os != "linux" {
		return fmt.Errorf("it runs %s containers; sandboxes need Linux", os)
	}
	if !e.rootless() {
		return nil
	}
	owner := e.owner()
	if owner.UID < 0 || owner.GID < 0 {
		return errors.New("it does not say which user it maps to root; run podman system migrate as its user, and start the service again")
	}
	if len(e.info.Host.IDMappings.UIDs) < 2 || len(e.info.Host.IDMappings.GIDs) < 2 {
		return fmt.Errorf("user %d has no subordinate ids, which rootless sandboxes need; as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER; then as that user: podman system migrate, and start the service again", owner.UID)
	}
	return nil
}

// notes says what works less well than asked for.
func (e *engine) notes() []string {
	var notes []string
	var lost []string
	for _, c := range []struct{ controller, limit string }{{"memory", "memory"}, {"cpu", "cpus"}, {"pids", "pids"}} {
		if !e.holds(c.controller) {
			lost = append(lost, c.limit)
		}
	}
	if len(lost) > 0 {
		notes = append(notes, fmt.Sprintf("limits of %s are not enforced: %s", strings.Join(lost, ", "), e.cgroupAdvice()))
	}
	if e.holds("memory") && e.info.Host.CgroupVersion != "v2" {
		notes = append(notes, "a process that the memory limit ends is reported as killed, without the reason: Podman sees that for certain on cgroup v2 alone")
	}
	if e.info.Host.Security.SELinux {
		notes = append(notes, "SELinux keeps sandboxes from this host's unix sockets")
	}
	if !e.info.Host.Security.Seccomp {
		notes = append(notes, "the engine filters no system calls: it was built without seccomp, or the kernel lacks it")
	}
	if runtime.GOOS == "linux" && !haveInit() {
		notes = append(notes, "the init program catatonit, which each sandbox needs, is not where Podman usually has it: install the package catatonit, unless init_path in containers.conf names another place")
	}
	return notes
}

func (e *engine) cgroupAdvice() string {
	switch {
	case !e.rootless():
		return "enable these cgroup controllers in the kernel"
	case e.info.Host.CgroupVersion != "v2":
		return "rootless Podman needs cgroup v2 for them; boot the host with systemd.unified_cgroup_hierarchy=1"
	default:
		return "the system does not delegate their cgroup controllers to Podman's user; as root write Delegate=cpu cpuset io memory pids below [Service] in /etc/systemd/system/user@.service.d/delegate.conf, then systemctl daemon-reload and log in again"
	}
}

// haveInit looks for the init program where Podman does by default.
func haveInit() bool {
	for _, dir := range []string{"/usr/local/libexec/podman", "/usr/local/lib/podman", "/usr/libexec/podman", "/usr/lib/podman"} {
		if _, err := os.Stat(filepath.Join(dir, "catatonit")); err == nil {
			return true
		}
	}
	_, err := exec.LookPath("catatonit")
	return err == nil
}
