package backends_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"claude-runner/backends"
)

func TestSpecValidate(t *testing.T) {
	valid := func() backends.Spec {
		return backends.Spec{
			Name: "task-1.a_B", Argv: []string{"sh", "", "two words\n"}, Env: map[string]string{"A": "x=y", "EMPTY": ""},
			Dir: "/work", Mounts: []backends.Mount{{Source: "/a b", Target: "/c"}}, Network: backends.NetworkNone,
			Limits: backends.Limits{Memory: 1, CPUs: 0.1, Tmpfs: map[string]int64{"/tmp": 1}}, Timeout: time.Second, Pull: backends.PullAlways,
		}
	}
	if err := valid().Validate(); err != nil {
		t.Errorf("a valid specification: %v", err)
	}
	for what, c := range map[string]struct {
		edit func(*backends.Spec)
		want string // in the error
	}{
		"an empty name":                 {func(s *backends.Spec) { s.Name = "" }, "name"},
		"a name with a slash":           {func(s *backends.Spec) { s.Name = "a/b" }, `"a/b"`},
		"a name that hides":             {func(s *backends.Spec) { s.Name = ".a" }, `".a"`},
		"a long name":                   {func(s *backends.Spec) { s.Name = strings.Repeat("a", 64) }, "63"},
		"no argv":                       {func(s *backends.Spec) { s.Argv = nil }, "argv"},
		"an empty program":              {func(s *backends.Spec) { s.Argv[0] = "" }, "argv"},
		"NUL in argv":                   {func(s *backends.Spec) { s.Argv[1] = "a\x00" }, "argv"},
		"argv that is not UTF-8":        {func(s *backends.Spec) { s.Argv[1] = "\xff" }, "UTF-8"},
		"a variable without a name":     {func(s *backends.Spec) { s.Env[""] = "x" }, "variable"},
		"a variable's name with an =":   {func(s *backends.Spec) { s.Env["A=B"] = "x" }, `"A=B"`},
		"a variable's value with a NUL": {func(s *backends.Spec) { s.Env["N"] = "\x00" }, `"N"`},
		"a relative folder":             {func(s *backends.Spec) { s.Dir = "work" }, `"work"`},
		"a relative source":             {func(s *backends.Spec) { s.Mounts[0].Source = "a" }, `"a"`},
		"a relative target":             {func(s *backends.Spec) { s.Mounts[0].Target = "c" }, `"c"`},
		"a relative tmpfs":              {func(s *backends.Spec) { s.Limits.Tmpfs["tmp"] = 1 }, `"tmp"`},
		"a tmpfs of no size":            {func(s *backends.Spec) { s.Limits.Tmpfs["/x"] = 0 }, `"/x"`},
		"a negative limit":              {func(s *backends.Spec) { s.Limits.CPUTime = -1 }, "below zero"},
		"a negative time-out":           {func(s *backends.Spec) { s.Timeout = -1 }, "below zero"},
		"an unknown network":            {func(s *backends.Spec) { s.Network = "host" }, `"host"`},
		"an unknown pull policy":        {func(s *backends.Spec) { s.Pull = "never ever" }, `"never ever"`},
	} {
		t.Run(what, func(t *testing.T) {
			s := valid()
			c.edit(&s)
			err := s.Validate()
			if !errors.Is(err, backends.ErrInvalidSpec) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want an ErrInvalidSpec with %s", err, c.want)
			}
		})
	}
}

// TestSpecValidateHidesValues: an error may be shown to anybody.
func TestSpecValidateHidesValues(t *testing.T) {
	s := backends.Spec{Name: "a", Argv: []string{"x", "secret\x00"}, Env: map[string]string{"TOKEN": "secret\x00"}}
	for range 2 {
		if err := s.Validate(); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("error %v", err)
		}
		s.Argv = s.Argv[:1]
	}
}

func TestMountCheckSource(t *testing.T) {
	dir := t.TempDir()
	file, socket := filepath.Join(dir, "file"), filepath.Join(dir, "s")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for what, c := range map[string]struct {
		mount backends.Mount
		want  string // in the error; "": there is none
	}{
		"a folder":                     {backends.Mount{Source: dir}, ""},
		"a folder, read-only":          {backends.Mount{Source: dir, ReadOnly: true}, ""},
		"a file, read-only":            {backends.Mount{Source: file, ReadOnly: true}, ""},
		"a file":                       {backends.Mount{Source: file}, "read-only"},
		"nothing":                      {backends.Mount{Source: filepath.Join(dir, "none")}, "no such"},
		"something below a file":       {backends.Mount{Source: filepath.Join(file, "x")}, file},
		"what is neither file, folder": {backends.Mount{Source: socket, ReadOnly: true}, "neither"},
	} {
		t.Run(what, func(t *testing.T) {
			err := c.mount.CheckSource()
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, backends.ErrInvalidSpec) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
