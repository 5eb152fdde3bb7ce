package claude

import "slices"

// ReservedArgs are the CLI's flags that a profile's extra_args may not hold,
// each with the reason: the driver gives them itself, or could not work with
// them.
var ReservedArgs = func() map[string]string {
	const (
		protocol = "the runner speaks to the CLI in a form of its own"
		profile  = "the profile has a setting for it"
		memory   = "the runner keeps the session's memory"
		trust    = "a workspace's own settings must have no power"
	)
	return map[string]string{
		"-p": protocol, "--print": protocol, "--input-format": protocol, "--output-format": protocol, "--verbose": protocol,
		"--include-partial-messages": protocol, "--replay-user-messages": protocol, "--permission-prompt-tool": protocol,
		"--model": profile + ": model", "--tools": profile + ": tools", "--permission-mode": profile + ": permission_mode",
		"--dangerously-skip-permissions": profile + ": permission_mode", "--allow-dangerously-skip-permissions": profile + ": permission_mode",
		"--max-turns": profile + ": max_turns", "--max-budget-usd": profile + ": max_budget_usd",
		"--system-prompt":             "the template has a file for it: AGENTS.md",
		"--system-prompt-file":        "the template has a file for it: AGENTS.md",
		"--append-system-prompt":      "the template has a file for it: AGENTS.md",
		"--append-system-prompt-file": "the template has a file for it: AGENTS.md",
		"--json-schema":               "the template has a file for it: output.schema.json",
		"--session-id":                memory, "--resume": memory, "-r": memory, "--continue": memory, "-c": memory,
		"--fork-session": memory, "--no-session-persistence": memory,
		"--setting-sources": trust, "--settings": trust, "--strict-mcp-config": trust, "--disable-slash-commands": trust,
		"--bare": trust,
	}
}()

// ReservedEnv returns the names of the variables that neither a profile nor a
// task may set.
func ReservedEnv() []string { return slices.Clone(reserved) }
