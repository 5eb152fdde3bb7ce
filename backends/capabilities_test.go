package backends_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/backends"
)

func TestCapabilitiesPath(t *testing.T) {
	m := backends.Mount{Source: "/host", Target: "/inside"}
	if got := (backends.Capabilities{MountsAtTarget: true}).Path(m); got != "/inside" {
		t.Errorf("with MountsAtTarget: %s", got)
	}
	if got := (backends.Capabilities{}).Path(m); got != "/host" {
		t.Errorf("without MountsAtTarget: %s", got)
	}
}

func TestSandboxUser(t *testing.T) {
	fixed, unprivileged := backends.User{UID: 4711, GID: 4712}, backends.User{UID: 10001, GID: 10002}
	withFixed, without := fixed, unprivileged
	if uid := os.Geteuid(); uid != 0 { // its own files are of use to itself alone
		withFixed = backends.User{UID: uid, GID: os.Getegid()}
		without = withFixed
	}
	if got := (backends.Capabilities{FixedUser: &fixed}).SandboxUser(unprivileged); got != withFixed {
		t.Errorf("with FixedUser: %v, want %v", got, withFixed)
	}
	if got := (backends.Capabilities{}).SandboxUser(unprivileged); got != without {
		t.Errorf("without: %v, want %v", got, without)
	}
}

func TestUnenforced(t *testing.T) {
	all := backends.Limits{
		Memory: 1 << 30, CPUs: 0.5, PIDs: 100, OpenFiles: 200, CPUTime: time.Minute,
		Tmpfs: map[string]int64{"/tmp": 1 << 20, "/run": 1 << 20},
	}
	words := func(c backends.EnforcedLimits, l backends.Limits) []string {
		var out []string
		for _, sentence := range (backends.Capabilities{Enforced: c}).Unenforced(l) {
			word, _, _ := strings.Cut(sentence, " limit of ")
			out = append(out, word)
		}
		return out
	}
	for what, c := range map[string]struct {
		held  backends.EnforcedLimits
		asked backends.Limits
		want  []string
	}{
		"nothing is asked for": {},
		"nothing is held":      {asked: all, want: []string{"memory", "cpus", "pids", "open_files", "cpu_time", "tmpfs /run", "tmpfs /tmp"}},
		"some is held":         {held: backends.EnforcedLimits{Memory: true, PIDs: true, Tmpfs: true}, asked: all, want: []string{"cpus", "open_files", "cpu_time"}},
		"all is held": {
			held:  backends.EnforcedLimits{Memory: true, CPUs: true, PIDs: true, OpenFiles: true, CPUTime: true, Tmpfs: true},
			asked: all,
		},
		"one is asked for": {asked: backends.Limits{PIDs: 1}, want: []string{"pids"}},
	} {
		t.Run(what, func(t *testing.T) {
			if diff := cmp.Diff(c.want, words(c.held, c.asked)); diff != "" {
				t.Errorf("limits that are not held (-want +got):\n%s", diff)
			}
		})
	}
}
