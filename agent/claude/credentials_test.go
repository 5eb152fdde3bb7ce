package claude_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"claude-runner/agent/claude"
	"claude-runner/agent/clitest"
)

func TestHostCredentials(t *testing.T) {
	soon, past := time.Now().Add(time.Hour).UnixMilli(), time.Now().Add(-time.Hour).UnixMilli()
	for name, c := range map[string]struct {
		file string
		want error
	}{
		"a login":           {fmt.Sprintf(`{"claudeAiOauth": {"accessToken": "sk-secret", "expiresAt": %d}}`, soon), nil},
		"one without end":   {`{"claudeAiOauth": {"accessToken": "sk-secret"}}`, nil},
		"an old login":      {fmt.Sprintf(`{"claudeAiOauth": {"accessToken": "sk-secret", "expiresAt": %d}}`, past), claude.ErrLoginExpired},
		"another's":         {`{"other": {"accessToken": "sk-secret"}}`, claude.ErrNotLoggedIn},
		"not JSON":          {`sk-secret`, claude.ErrNotLoggedIn},
		"nothing there":     {"", claude.ErrNotLoggedIn},
		"an empty one":      {"{}", claude.ErrNotLoggedIn},
		"of the wrong type": {`{"claudeAiOauth": {"accessToken": 5}}`, claude.ErrNotLoggedIn},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			t.Setenv("CLAUDE_CONFIG_DIR", "")
			check(t, filepath.Join(home, ".claude"), c.file, c.want)
			config := t.TempDir()
			t.Setenv("CLAUDE_CONFIG_DIR", config)
			check(t, config, c.file, c.want)
		})
	}
}

func check(t *testing.T, dir, file string, want error) {
	t.Helper()
	if file != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ".credentials.json"), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := claude.HostCredentials()
	if !errors.Is(err, want) || err == nil && got.Reveal() != "sk-secret" {
		t.Errorf("got %q, %v; want %v", got, err, want)
	}
	if err != nil && (strings.Contains(err.Error(), "sk-secret") || !strings.Contains(err.Error(), "ANTHROPIC_API_KEY")) {
		t.Errorf("error %q", err)
	}
}

func TestVersion(t *testing.T) {
	got, err := claude.Version(t.Context(), clitest.Path(t))
	if err != nil || strings.Count(got, ".") != 2 {
		t.Errorf("got %q, %v", got, err)
	}
	if claude.TestedVersion == "" || strings.TrimSpace(claude.TestedVersion) != claude.TestedVersion {
		t.Errorf("tested version %q", claude.TestedVersion)
	}
	for _, path := range []string{"/nowhere/claude", "/bin/echo", "/bin/false"} {
		if got, err := claude.Version(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}
