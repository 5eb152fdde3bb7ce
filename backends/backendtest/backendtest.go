// Package backendtest is the conformance suite of package backends: each
// sentence of the contract of Backend, Sandbox, Spec and Capabilities has a
// subtest. A backend joins with a test of a few lines that calls Run.
//
// Sandboxes of the suite use a POSIX shell, coreutils, setsid, nohup and Perl.
package backendtest

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"claude-runner/backends"
)

// RequireVar is the environment variable that lists, with commas, the backend
// kinds whose tests fail rather than skip where the engine is not there.
const RequireVar = "REQUIRE_BACKENDS"

// Harness is what the suite needs to know of a backend.
type Harness struct {
	// New returns a backend object. All that it returns during one Run share
	// engine, instance and state folder, as if each were a new process of one
	// runner. The suite closes them.
	New func(t testing.TB) backends.Backend

	// Other returns a backend of the same engine with another instance and
	// state folder: another runner on this host.
	Other func(t testing.TB) backends.Backend

	// Dead returns a backend whose engine does not answer. Nil where there is
	// no way to have one.
	Dead func(t testing.TB) backends.Backend

	// Image has what the suite's sandboxes use. Ignored without
	// Capabilities.Images.
	Image string

	// User is who sandboxes run as when the test runs as root and the backend
	// has no FixedUser. Zero: 10001:10001.
	User backends.User

	// Control says that something in front of each main process takes lines of
	// its input that begin with a NUL byte (see backends.ControlSweep): the suite
	// writes none.
	Control bool

	// Leftovers lists what is there of sandboxes of New's instance: containers
	// by their label, folders, sockets, mounts, helper processes. The suite
	// itself looks for the sandboxes' processes. It is called when all are
	// stopped, and what it returns fails the test.
	Leftovers func(t testing.TB) []string
}

// Run holds a backend against the contract.
func Run(t *testing.T, h Harness) {
	s := newSuite(t, h)
	for _, g := range []struct {
		name  string
		cases []testCase
	}{
		{"Backend", backendCases},
		{"Process", processCases},
		{"Files", fileCases},
		{"Limits", limitCases},
		{"Hardening", hardeningCases},
		{"Network", networkCases},
		{"Streams", streamCases},
		{"Wait", waitCases},
		{"Usage", usageCases},
		{"Stop", stopCases},
		{"Start", startCases},
		{"Recover", recoverCases},
	} {
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.cases {
				t.Run(c.name, func(t *testing.T) {
					s.expectNothingLeft(t)
					c.run(s, t)
				})
			}
		})
	}
}

// testCase is one sentence of the contract, and what proves it.
type testCase struct {
	name string
	run  func(*suite, *testing.T)
}

// Require skips the test when err says that the backend kind is not to be had
// here, and fails it instead where RequireVar names that kind.
func Require(t testing.TB, kind string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if slices.Contains(strings.Split(os.Getenv(RequireVar), ","), kind) {
		t.Fatalf("%s names %s, but: %v", RequireVar, kind, err)
	}
	t.Skipf("%s is not to be had here: %v", kind, err)
}

// Check is a backend's own, with some patience for an engine that is busy with
// other tests.
func Check(b backends.Backend) (status backends.Status, err error) {
	for range 4 {
		if status, err = b.Check(context.Background()); err == nil || !strings.Contains(err.Error(), "does not answer within") {
			break
		}
	}
	return status, err
}

// SharedDir returns a temporary folder that any user can reach and read. Only
// its owner, the test's user, can write there.
func SharedDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	top, err := filepath.EvalSymlinks(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for d := dir; d != top && d != filepath.Dir(d); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// OwnedDir returns a temporary folder that belongs to u, reachable by any user.
func OwnedDir(t testing.TB, u backends.User) string {
	t.Helper()
	dir := SharedDir(t)
	give(t, dir, u)
	return dir
}

// give makes path u's, where the test may do so.
func give(t testing.TB, path string, u backends.User) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(path, u.UID, u.GID); err != nil {
		t.Fatal(err)
	}
}
