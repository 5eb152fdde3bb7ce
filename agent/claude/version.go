package claude

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Version returns the version of the CLI at path on this host, such as
// "2.1.197". It runs it, which takes a sixth of a second.
func Version(ctx context.Context, path string) (string, error) {
	cmd := exec.CommandContext(ctx, path, "--version")
	// The CLI gets nothing of the runner's environment, least of all its keys.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "DISABLE_AUTOUPDATER=1"}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	number, _, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if number == "" || number[0] < '0' || number[0] > '9' {
		return "", fmt.Errorf("%s is not the Claude Code CLI: it calls itself %.40q", path, out)
	}
	return number, nil
}
