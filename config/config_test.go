package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"claude-runner/backends"
	"claude-runner/config"
)

var update = flag.Bool("update", false, "write want.txt and the example anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The configurations of the kinds that tests have.
type (
	dockerConfig struct {
		Host    string  `koanf:"host"`
		Runtime string  `koanf:"runtime"`
		Ratio   float64 `koanf:"ratio"`
		Nested  *nested `koanf:"nested"`
	}
	nested struct {
		Count  uint8             `koanf:"count"`
		Labels map[string]string `koanf:"labels"`
	}
	podmanConfig struct {
		Socket string        `koanf:"socket"`
		Start  bool          `koanf:"start"`
		Wait   time.Duration `koanf:"wait"`
	}
	localConfig struct {
		Path []string `koanf:"path"`
	}
)

func kinds() []backends.Kind {
	return []backends.Kind{
		backends.Define("docker", dockerConfig{}, noBackend[dockerConfig]),
		backends.Define("podman", podmanConfig{Wait: 10 * time.Second}, noBackend[podmanConfig]),
		backends.Define("local", localConfig{}, noBackend[localConfig]),
	}
}

func noBackend[C any](C, backends.Options) (backends.Backend, error) {
	return nil, errors.New("not made in tests")
}

// options returns what a program would load with, in a folder and with nothing
// but this environment and these arguments.
func options(t testing.TB, dir string, environ []string, args ...string) config.Options {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return config.Options{
		Dir:         dir,
		ReservedEnv: []string{"HOME"},
		Environ:     func() []string { return environ },
		Flags:       flags,
		Kinds:       kinds(),
		Unsandboxed: []string{"local"},

		OtherVariables: []string{"CLAUDE_RUNNER_URL"},
		ReservedArgs: map[string]string{
			"--output-format": "the runner reads stream-json",
			"--resume":        "the runner picks the session",
			"--session-id":    "the runner picks the session",
		},
	}
}

// TestCases loads each folder of testdata that has a want.txt: config.yaml, env
// (variables) and args (flags), each one a line, are there or not. It compares
// all errors, or else the warnings and what Show writes.
func TestCases(t *testing.T) {
	wants, err := filepath.Glob(filepath.Join("testdata", "*", "want.txt"))
	if err != nil || len(wants) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, want := range wants {
		dir := filepath.Dir(want)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			abs, err := filepath.Abs(dir)
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(options(t, abs, lines(t, dir, "env"), lines(t, dir, "args")...))
			got := strings.ReplaceAll(outcome(t, cfg, err), filepath.Dir(abs), "$TESTDATA")
			if strings.Contains(got, "never-show-me") {
				t.Errorf("a secret is shown:\n%s", got)
			}
			golden(t, want, got)
		})
	}
}

// outcome returns the text that a case compares.
func outcome(t *testing.T, cfg *config.Config, err error) string {
	t.Helper()
	if err != nil {
		var all config.Errors
		if !errors.As(err, &all) || len(all) == 0 {
			t.Fatalf("the error is a %T, want config.Errors", err)
		}
		return err.Error() + "\n"
	}
	var out strings.Builder
	for _, w := range cfg.Warnings {
		out.WriteString("warning: " + w.Error() + "\n")
	}
	if err := cfg.Show(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// golden compares got with a file.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", file, diff)
	}
}

// lines returns the lines of a case's file, none where it is not there.
func lines(t *testing.T, dir, name string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
}
