package helper_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/helper"
	"claude-runner/backends/local"
)

// TestConformance holds the local backend against the whole contract with a
// helper in front of every main process: nobody sees a difference.
func TestConformance(t *testing.T) {
	program := helper.At(build(t, runtime.GOOS))
	t.Run("without control", func(t *testing.T) { conforms(t, program, helper.Options{Socket: "/no/such/socket"}) })
	t.Run("with control", func(t *testing.T) { conforms(t, program, control) })
}

func conforms(t *testing.T, program *helper.Program, o helper.Options) {
	dir := t.TempDir()
	harness := func(state string) func(testing.TB) backends.Backend {
		return func(t testing.TB) backends.Backend {
			return withHelper{newLocal(t, filepath.Join(dir, state)), program, o}
		}
	}
	backendtest.Run(t, backendtest.Harness{
		New: harness("own"), Other: harness("other"), User: nobody, Control: o.Control,
		Leftovers: func(t testing.TB) []string {
			left, err := filepath.Glob(filepath.Join(dir, "own", "*"))
			if err != nil {
				t.Fatal(err)
			}
			return left
		},
	})
}

func newLocal(t testing.TB, state string) backends.Backend {
	t.Helper()
	o := backends.Options{Name: "local", Instance: filepath.Base(state), StateDir: state, Log: slog.New(slog.DiscardHandler)}
	if os.Geteuid() == 0 {
		o.User = nobody
	}
	b, err := local.New(local.Config{}, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// withHelper is a backend whose sandboxes each begin with a helper.
type withHelper struct {
	backends.Backend
	program *helper.Program
	options helper.Options
}

func (b withHelper) Start(ctx context.Context, spec backends.Spec) (backends.Sandbox, error) {
	if len(spec.Argv) > 0 && spec.Argv[0] != "" {
		argv, mounts, err := b.program.Command(b.Capabilities(), spec.Argv, b.options)
		if err != nil {
			return nil, err
		}
		spec.Argv, spec.Mounts = argv, append(append([]backends.Mount{}, spec.Mounts...), mounts...)
	}
	return b.Backend.Start(ctx, spec)
}
