package helper_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/backends"
	"claude-runner/backends/helper"
)

func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "helper")
	for range 2 {
		if _, err := helper.Install(dir); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "claude-runner-helper")
	first := stat(t, path)
	if first.Mode() != 0o555 {
		t.Errorf("mode %v, want 0555", first.Mode())
	}
	if mode := stat(t, dir).Mode().Perm(); mode != 0o755 {
		t.Errorf("the folder's mode is %v, want 0755", mode)
	}
	if files, _ := os.ReadDir(dir); runtime.GOOS == "linux" && len(files) != 1 {
		t.Errorf("the folder has %v, want the helper alone", files)
	}

	t.Run("what is there is left as it is", func(t *testing.T) {
		if _, err := helper.Install(dir); err != nil || !os.SameFile(first, stat(t, path)) {
			t.Errorf("it was written again, %v", err)
		}
	})
	t.Run("another version is replaced, and does not change where it runs", func(t *testing.T) {
		if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := helper.Install(dir); err != nil || os.SameFile(first, stat(t, path)) {
			t.Errorf("the old file is there still, %v", err)
		}
	})
	t.Run("a folder that can not be made", func(t *testing.T) {
		if _, err := helper.Install(filepath.Join(path, "below")); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v, want one that names %s", err, path)
		}
	})
}

func TestCommand(t *testing.T) {
	p := helper.At("/data/helper/claude-runner-helper")
	o := helper.Options{Socket: "/run/runner/gateway.sock", Confine: &helper.Confinement{ReadWrite: []string{"/w", "/h"}, ReadOnly: []string{"/t"}}}
	argv := []string{"claude", "-p", "--", "x y"}
	for what, c := range map[string]struct {
		caps   backends.Capabilities
		want   string
		mounts []backends.Mount
	}{
		"in an image": {
			backends.Capabilities{Images: true, MountsAtTarget: true},
			"/usr/local/lib/claude-runner-helper -socket /run/runner/gateway.sock -- claude -p -- x y",
			[]backends.Mount{{Source: "/data/helper/claude-runner-helper", Target: "/usr/local/lib/claude-runner-helper", ReadOnly: true}},
		},
		"on this host": {
			backends.Capabilities{},
			"/data/helper/claude-runner-helper -socket /run/runner/gateway.sock -rw /w -rw /h -ro /t -- claude -p -- x y", nil,
		},
	} {
		t.Run(what, func(t *testing.T) {
			got, mounts, err := p.Command(c.caps, argv, o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("command line (-want +got):\n%s", diff)
			}
			if !slices.Equal(mounts, c.mounts) {
				t.Errorf("mounts %+v, want %+v", mounts, c.mounts)
			}
		})
	}
	if _, _, err := p.Command(backends.Capabilities{}, nil, o); err == nil {
		t.Error("no command line of the agent: no error")
	}
}

func stat(t testing.TB, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
