package local_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/local"
)

func TestKind(t *testing.T) {
	k := local.Kind()
	cfg, ok := k.NewConfig().(*local.Config)
	if !ok || k.Name != "local" {
		t.Fatalf("kind %q with a configuration %T", k.Name, k.NewConfig())
	}
	b, err := k.New(cfg, options(filepath.Join(t.TempDir(), "state")))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Name() != "local-test" {
		t.Errorf("name %q", b.Name())
	}
}

func TestNewRefuses(t *testing.T) {
	for what, c := range map[string]struct {
		cfg      local.Config
		stateDir string
		want     string
	}{
		"a relative path":         {local.Config{Path: []string{"/bin", "tools"}}, "/state", `"tools"`},
		"a relative state folder": {local.Config{}, "state", `"state"`},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := local.New(c.cfg, options(c.stateDir))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that names %s", err, c.want)
			}
		})
	}
}

func TestPathIsGivenToSandboxes(t *testing.T) {
	tools := backendtest.SharedDir(t)
	if err := os.WriteFile(filepath.Join(tools, "greet"), []byte("#!/bin/sh\necho \"$PATH\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := local.New(local.Config{Path: []string{tools, "/bin"}}, options(filepath.Join(t.TempDir(), "state")))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	sb, err := b.Start(within(t), backends.Spec{Name: "sandbox", Argv: []string{"greet"}})
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	expectOutput(t, sb.Stdout(), tools+":/bin\n")
	if err := sb.Stop(within(t), 0); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func TestCheckSaysWhatToDo(t *testing.T) {
	nowhere := t.TempDir()
	withoutUser := options(filepath.Join(t.TempDir(), "state"))
	withoutUser.User = backends.User{}
	for what, c := range map[string]struct {
		cfg  local.Config
		opts backends.Options
		want string
		root bool
	}{
		"a state folder that can not be made": {opts: options("/dev/null/state"), want: "/dev/null/state"},
		"no shell":                            {cfg: local.Config{Path: []string{nowhere}}, opts: options(filepath.Join(t.TempDir(), "state")), want: nowhere},
		"root, and nobody to be instead":      {opts: withoutUser, want: "unprivileged user", root: true},
	} {
		t.Run(what, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Skip("the test is not root")
			}
			b, err := local.New(c.cfg, c.opts)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			_, err = b.Check(within(t))
			if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check: %v, want an ErrUnavailable that names %s", err, c.want)
			}
		})
	}
}

// TestStateFolderIsPrivate: its parents are not, for sandboxes' folders may be
// beside it.
func TestStateFolderIsPrivate(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	start(t, filepath.Join(data, "state"), shell("exit 0"))
	for path, want := range map[string]os.FileMode{data: 0o755, filepath.Join(data, "state"): 0o700} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
}

func TestClosedFolderIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only a root runner has sandboxes of another user")
	}
	closed := filepath.Join(backendtest.SharedDir(t), "closed")
	dir := filepath.Join(closed, "workspace")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	b := newBackend(t, filepath.Join(t.TempDir(), "state"))
	defer b.Close()
	spec := shell("exit 0")
	spec.Dir = dir
	_, err := b.Start(within(t), spec)
	if !errors.Is(err, backends.ErrInvalidSpec) || !strings.Contains(err.Error(), "10001:10001 may not enter "+closed+":") {
		t.Errorf("Start: %v, want an ErrInvalidSpec that says who may not enter %s", err, closed)
	}
}

func TestForeignHandles(t *testing.T) {
	b, sb := start(t, filepath.Join(t.TempDir(), "state"), shell("read x"))
	for what, c := range map[string]struct {
		edit func(*backends.Handle)
		want error
	}{
		"another sandbox of that name": {func(h *backends.Handle) { h.ID = "another" }, backends.ErrNotFound},
		"a name that is a path":        {func(h *backends.Handle) { h.Name = "../" + h.Name }, backends.ErrNotFound},
		"an empty name":                {func(h *backends.Handle) { h.Name = "" }, backends.ErrNotFound},
		"a form of another program":    {func(h *backends.Handle) { h.Version = 99 }, nil},
	} {
		t.Run(what, func(t *testing.T) {
			h := sb.Handle()
			c.edit(&h)
			_, err := b.Recover(within(t), h, 0)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("Recover: %v, want %v", err, c.want)
			}
		})
	}
}
