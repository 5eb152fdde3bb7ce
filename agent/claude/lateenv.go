package claude

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"claude-runner/agent"
)

// The CLI has each shell of its Bash tool, subagents' too, begin with a file
// that this variable names. It reads the file when it first runs a command, and
// keeps what it has read.
const (
	envFileVariable = "CLAUDE_ENV_FILE"
	envFile         = "env.sh"
)

// SetEnv implements agent.Driver: tools that run commands get the variables
// from a file.
func (d driver) SetEnv(l agent.Launch, env map[string]string) (bool, error) {
	if len(env) == 0 {
		return true, nil
	}
	for name := range env {
		if slices.Contains(reserved, name) {
			return false, invalid("env %s: the variable is the runner's own", name)
		}
		if readAtStart(name) {
			return false, nil
		}
	}
	if slices.ContainsFunc(l.Profile.ExtraArgs, startsPrograms) {
		return false, nil
	}
	root, err := os.OpenRoot(l.Run.Host)
	if err != nil {
		return false, fmt.Errorf("open the run folder: %w", err)
	}
	defer root.Close()
	if err := dropEnv(root); err != nil {
		return false, err
	}
	// The folder alone keeps the file from others: its owner must read it.
	f, err := root.OpenFile(envFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return false, fmt.Errorf("write the task's environment: %w", err)
	}
	if _, err := f.WriteString(exports(env)); err != nil {
		return false, fmt.Errorf("write the task's environment: %w", errors.Join(err, f.Close()))
	}
	return true, f.Close()
}

// forgetEnv removes what an earlier agent of the same folder was given.
func forgetEnv(run agent.Folder) error {
	root, err := os.OpenRoot(run.Host)
	if err != nil {
		return fmt.Errorf("open the run folder: %w", err)
	}
	defer root.Close()
	return dropEnv(root)
}

func dropEnv(run *os.Root) error {
	if err := remove(run, ".", envFile); err != nil {
		return fmt.Errorf("remove an earlier task's environment: %w", err)
	}
	return nil
}

// exports is env as lines of a shell.
func exports(env map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(env[name], "'", `'\''`))
	}
	return b.String()
}

// readAtStart reports whether the CLI, or the runtime that it is built on,
// reads a variable itself, or finds its programs by it.
func readAtStart(name string) bool {
	return slices.Contains(atStart, strings.ToUpper(name)) ||
		slices.ContainsFunc(atStartPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

var (
	atStart = []string{
		"PATH", "SHELL", "TMPDIR", "TEMP", "TMP", "USER", "LOGNAME", "LANG", "TZ", "TERM", "COLORTERM", "EDITOR", "CI", "DEBUG",
		"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
		"IS_SANDBOX", "FORCE_COLOR", "NO_COLOR", "USE_BUILTIN_RIPGREP", "SLASH_COMMAND_TOOL_CHAR_BUDGET",
	}
	atStartPrefixes = []string{
		"CLAUDE", "ANTHROPIC_", "BUN_", "NODE_", "JSC_", "API_", "MCP_", "BASH_", "MAX_", "DISABLE_", "ENABLE_", "OTEL_", "XDG_", "LC_",
		"AWS_REGION", "CLOUD_ML_", "VERTEX_", "TASK_", "LD_",
	}
)

// startsPrograms reports whether an argument has the CLI start programs of its
// own, which get its environment when they start.
func startsPrograms(arg string) bool { return flagName(arg) == "--mcp-config" || bringsPlugins(arg) }

// bringsPlugins reports whether with an argument the CLI has plugins, whose hooks it
// runs.
func bringsPlugins(arg string) bool {
	return slices.Contains([]string{"--plugin-dir", "--plugin-url"}, flagName(arg))
}

func flagName(arg string) string {
	name, _, _ := strings.Cut(arg, "=")
	return name
}
