package backendtest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"claude-runner/backends"
)

var processCases = []testCase{
	{"an exit code is the main process's own", (*suite).exitCodes},
	{"a signal is not an exit code", (*suite).exitSignals},
	{"argv arrives as it is", (*suite).argv},
	{"the program is looked up in the sandbox's PATH", (*suite).lookup},
	{"the environment is what Spec.Env says", (*suite).environment},
	{"nothing of the environment is in a process's arguments", (*suite).secretArguments},
	{"no file that the runner has open is open in the sandbox", (*suite).openFiles},
	{"a sandbox that shares the host's network is given localhost for HostAlias", (*suite).hostAlias},
	{"the working folder is Spec.Dir", (*suite).workingFolder},
	{"without Spec.Dir the working folder is the root", (*suite).noWorkingFolder},
	{"processes run as Spec.User", (*suite).runsAsUser},
	{"processes can not gain privileges", (*suite).noNewPrivileges},
}

func (s *suite) exitCodes(t *testing.T) {
	for _, code := range []int{0, 1, 42, 255} {
		s.expectExit(t, s.shell(fmt.Sprintf("exit %d", code)), backends.Exit{Code: code})
	}
}

func (s *suite) exitSignals(t *testing.T) {
	for _, signal := range []int{1, 9, 15} {
		s.expectExit(t, s.shell(fmt.Sprintf("kill -%d $$; sleep 60", signal)), backends.Exit{Code: -1, Signal: signal})
	}
}

func (s *suite) argv(t *testing.T) {
	args := []string{"two words", "", "a\nb", `"double" 'single'`, "$HOME `id` $(id)", "*", `back\slash\`, "--flag=x y", "日本"}
	spec := s.shell("")
	spec.Argv = append([]string{"sh", "-c", `printf '%s\0' "$@"`, "sh"}, args...)
	r := s.expectExit(t, spec, backends.Exit{})
	if diff := cmp.Diff(args, split(r.out)); diff != "" {
		t.Errorf("arguments (-given +seen):\n%s", diff)
	}
}

func (s *suite) lookup(t *testing.T) {
	spec := s.shell("")
	dir := s.folder(t, &spec)
	program := filepath.Join(dir, "only-here")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho found\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	give(t, program, spec.User)
	spec.Argv = []string{"only-here"}
	spec.Env["PATH"] = spec.Env[folderVar] + ":/usr/bin:/bin"
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "found\n" {
		t.Errorf("output %q, want %q", r.out, "found\n")
	}
}

// environment compares a sandbox's environment with that of one with nothing
// in Spec.Env but the mark: the difference is Spec.Env.
func (s *suite) environment(t *testing.T) {
	t.Setenv("BACKENDTEST_RUNNERS_OWN", "must not be seen")
	seen := func(env map[string]string) map[string]string {
		spec := s.shell("")
		spec.Argv = []string{"env", "-0"}
		maps.Copy(spec.Env, env)
		r := s.expectExit(t, spec, backends.Exit{})
		out := map[string]string{}
		for _, kv := range split(r.out) {
			k, v, _ := strings.Cut(kv, "=")
			out[k] = v
		}
		return out
	}

	base := seen(nil)
	if base["PATH"] == "" {
		t.Error("no PATH is given")
	}
	for name := range base {
		if _, ok := os.LookupEnv(name); ok && name != "PATH" && !s.caps.Images {
			t.Errorf("the runner's own %s is seen", name)
		}
	}
	if _, ok := base["BACKENDTEST_RUNNERS_OWN"]; ok {
		t.Error("the runner's own environment is seen")
	}

	// What the engine sets differently in each sandbox is its own affair.
	engines := map[string]bool{}
	for name, value := range seen(nil) {
		engines[name] = base[name] != value
	}

	given := map[string]string{
		"PLAIN": "x", "EMPTY": "", "WORDS": "two words", "LINES": "a\nb\n", "QUOTES": `"'`, "DOLLAR": "$PLAIN ${PLAIN}",
		"EQUALS": "a=b=c", "UNICODE": "日本", "lower.dots-dashes": "1", "HOME": "/given", "PATH": "/usr/bin:/bin:/given",
	}
	want := maps.Clone(base)
	maps.Copy(want, given)
	got := seen(given)
	ignored := func(name, _ string) bool { return engines[name] && given[name] == "" }
	maps.DeleteFunc(want, ignored)
	maps.DeleteFunc(got, ignored)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +seen):\n%s", diff)
	}
}

func (s *suite) secretArguments(t *testing.T) {
	spec := s.sleeper()
	spec.Env["SECRET"] = s.mark + "-secret"
	sb := s.start(t, s.backend(t), spec)
	expectOutput(t, sb.Stdout(), "ready\n")
	for _, p := range helpers(t, spec.Env["SECRET"]) {
		t.Errorf("a process shows a value of the environment in its arguments: %s", p)
	}
	stop(t, sb, grace)
}

// openFiles opens a file that every child of this process inherits.
func (s *suite) openFiles(t *testing.T) {
	path := filepath.Join(SharedDir(t), "runners-own")
	fd, err := syscall.Open(path, syscall.O_CREAT|syscall.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	r := s.expectExit(t, s.shell("ls -l /dev/fd/"), backends.Exit{})
	if strings.Contains(r.out, "runners-own") {
		t.Errorf("a file of the runner is open in the sandbox:\n%s", r.out)
	}
}

func (s *suite) hostAlias(t *testing.T) {
	if s.caps.Images {
		t.Skip("sandboxes have a network of their own; see Network")
	}
	spec := s.shell(`printf %s "$URL"`)
	spec.Env["URL"] = "http://" + backends.HostAlias + ":3457/x"
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "http://localhost:3457/x" {
		t.Errorf("$URL is %q, want %q", r.out, "http://localhost:3457/x")
	}
}

func (s *suite) workingFolder(t *testing.T) {
	spec := s.shell("pwd -P; echo here > file")
	dir := s.folder(t, &spec)
	sub := filepath.Join(dir, "a folder")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	give(t, sub, spec.User)
	spec.Dir = spec.Env[folderVar] + "/a folder"
	r := s.expectExit(t, spec, backends.Exit{})
	if r.out != spec.Dir+"\n" {
		t.Errorf("working folder %q, want %q", r.out, spec.Dir)
	}
	if _, err := os.Stat(filepath.Join(sub, "file")); err != nil {
		t.Error(err)
	}
}

func (s *suite) noWorkingFolder(t *testing.T) {
	if r := s.expectExit(t, s.shell("pwd"), backends.Exit{}); r.out != "/\n" {
		t.Errorf("working folder %q, want /", r.out)
	}
}

func (s *suite) runsAsUser(t *testing.T) {
	spec := s.shell("id -u; id -G; echo x > $W/file; mkdir $W/sub")
	dir := s.folder(t, &spec)
	r := s.expectExit(t, spec, backends.Exit{})
	uid, groups, _ := strings.Cut(strings.TrimSpace(r.out), "\n")
	if uid == "0" {
		t.Error("the sandbox runs as root")
	}
	if os.Geteuid() == 0 && slices.Contains(strings.Fields(groups), "0") {
		t.Errorf("the sandbox is in the groups %q, want none of root's", groups)
	}
	for _, name := range []string{"file", "sub"} {
		checkOwner(t, filepath.Join(dir, name), spec.User)
	}
}

func (s *suite) noNewPrivileges(t *testing.T) {
	const status = "/proc/self/status"
	if _, err := os.Stat(status); err != nil {
		t.Skip("this host does not say: ", err)
	}
	r := s.expectExit(t, s.shell("cat "+status), backends.Exit{})
	for _, want := range []string{"NoNewPrivs:\t1\n", "CapEff:\t0000000000000000\n"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%s has no %q", status, want)
		}
	}
}

// split cuts text that ends each of its parts with a NUL.
func split(text string) []string {
	return strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
}
