package backendtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/backends"
)

// What of the kernel a sandbox has, where Capabilities.Images says that it has
// walls of its own.
var hardeningCases = []testCase{
	{"no privileges, and none to be had", (*suite).noPrivileges},
	{"system calls are filtered", (*suite).filtered},
	{"/proc and /sys show and change nothing of the host", (*suite).maskedProc},
	{"no swap beside the memory limit", (*suite).noSwap},
	{"a mount with an engine's socket is ErrInvalidSpec", (*suite).noEngineSocket},
	{"each wall can be taken down by itself", (*suite).loosened},
}

// status returns lines of the main process's /proc/self/status: "Name=value".
const status = `sed -n 's/^\(CapInh\|CapPrm\|CapEff\|CapBnd\|CapAmb\|NoNewPrivs\|Seccomp\):[[:space:]]*/\1=/p' /proc/self/status; `

func (s *suite) hardened(t *testing.T) {
	t.Helper()
	if !s.caps.Images {
		t.Skip("Images is false")
	}
}

func (s *suite) noPrivileges(t *testing.T) {
	s.hardened(t)
	r := s.expectExit(t, s.shell(status), backends.Exit{})
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if !strings.Contains(r.out, set+"=0000000000000000\n") {
			t.Errorf("%s is not empty: %q", set, r.out)
		}
	}
	if s.caps.Isolation != backends.IsolationUserspace && !strings.Contains(r.out, "NoNewPrivs=1\n") {
		t.Errorf("new privileges can be had: %q", r.out)
	}
}

// filtered leaves user namespaces out: Podman's own filter lets them be made.
func (s *suite) filtered(t *testing.T) {
	s.hardened(t)
	if s.caps.Isolation == backends.IsolationUserspace {
		t.Skip("its kernel is not the host's")
	}
	r := s.expectExit(t, s.shell(status+`for what in -m -n; do unshare $what true && echo unshare $what; done; exit 0`), backends.Exit{})
	if !strings.Contains(r.out, "Seccomp=2\n") || strings.Contains(r.out, "unshare") {
		t.Errorf("no filter is in force: %q", r.out)
	}
}

func (s *suite) maskedProc(t *testing.T) {
	s.hardened(t)
	spec := s.shell(`
for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/latency_stats /sys/firmware/dmi/tables/DMI /proc/acpi/info; do
	[ "$(head -c 1 $f 2>/dev/null | wc -c)" = 0 ] || echo read $f
done
for f in /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/drop_caches /sys/kernel/uevent_helper /sys/fs/cgroup/cgroup.procs; do
	(echo x > $f) 2>/dev/null && echo wrote $f
done
(: > /sys/new) 2>/dev/null && echo wrote /sys
[ -z "$(find /dev -type b 2>/dev/null)" ] || echo "a disk is in /dev"
exit 0`)
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "" {
		t.Errorf("the sandbox %q", r.out)
	}
}

// noSwap holds where the sandbox's own cgroup shows it.
func (s *suite) noSwap(t *testing.T) {
	s.hardened(t)
	if !s.caps.Enforced.Memory {
		t.Skip("Enforced.Memory is false")
	}
	spec := s.shell(`for f in /sys/fs/cgroup/memory.swap.max /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes; do [ ! -e $f ] || cat $f; done`)
	spec.Limits.Memory = 64 << 20
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "" && r.out != "0\n" && r.out != "67108864\n" {
		t.Errorf("the limit of swap, or of memory with it, is %q", r.out)
	}
}

func (s *suite) noEngineSocket(t *testing.T) {
	b := s.backend(t)
	link := filepath.Join(SharedDir(t), "link")
	if err := os.Symlink("/var/run", link); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"/", "/run", "/var/run/docker.sock", "/run/user", link} {
		spec := s.sleeper()
		spec.Mounts = []backends.Mount{{Source: source, Target: "/mnt"}}
		s.expectStartError(t, b, spec, backends.ErrInvalidSpec)
	}
}

func (s *suite) loosened(t *testing.T) {
	s.hardened(t)
	if s.caps.Isolation == backends.IsolationUserspace {
		t.Skip("its kernel is not the host's")
	}
	filter := filepath.Join(SharedDir(t), "filter.json")
	if err := os.WriteFile(filter, []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["sync"], "action": "SCMP_ACT_ERRNO"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, script, want string
		h                  backends.Hardening
	}{
		{"writable_root", "touch /tmp/new && echo wrote", "wrote\n", backends.Hardening{WritableRoot: true}},
		{"capabilities", status, "CapBnd=0000000000002000\n", backends.Hardening{Capabilities: []string{"NET_RAW"}}},
		{"new_privileges", status, "NoNewPrivs=0\n", backends.Hardening{NewPrivileges: true}},
		{"seccomp: unconfined", status, "Seccomp=0\n", backends.Hardening{Seccomp: backends.SeccompUnconfined}},
		{"seccomp: default", status, "Seccomp=2\n", backends.Hardening{Seccomp: backends.SeccompDefault}},
		{"seccomp: a path", status + "unshare -U true && echo unshared", "unshared\n", backends.Hardening{Seccomp: filter}},
		{"unmasked_proc", "grep -c ' /proc/' /proc/self/mountinfo", "0\n", backends.Hardening{UnmaskedProc: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := s.shell(c.script)
			spec.Hardening = c.h
			if r := s.run(t, spec); !strings.Contains(r.out, c.want) {
				t.Errorf("it says %q, want %q in it; stderr %q", r.out, c.want, clip(r.err))
			}
		})
	}
	spec := s.sleeper()
	spec.Hardening.Seccomp = "/no/such/filter.json"
	b := s.backend(t)
	sb, err := b.Start(within(t), spec)
	if err == nil {
		stopAtEnd(t, sb)
		t.Error("a sandbox started without the filter that was asked for")
	}
}
