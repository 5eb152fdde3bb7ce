package claude

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"claude-runner/agent"
)

// Command implements agent.Driver. The system prompt and the output's schema are
// not in it: they go over standard input (see Open), since a command line shows
// them to every user of a machine and has less room than they may need. In the
// HOME it removes what an agent may have left to have power over the next (see
// cleanHome), so no process may run in it.
func (d driver) Command(l agent.Launch) (agent.Command, error) {
	if err := cleanHome(l.Home); err != nil {
		return agent.Command{}, err
	}
	if l.Ahead {
		if err := forgetEnv(l.Run); err != nil {
			return agent.Command{}, err
		}
	}
	env, err := environment(l)
	if err != nil {
		return agent.Command{}, err
	}
	argv, err := d.arguments(l)
	if err != nil {
		return agent.Command{}, err
	}
	return agent.Command{Argv: argv, Env: env}, nil
}

// arguments is the start line. Each flag that could be left out is there for a
// trap:
//
//   - --setting-sources "" and --strict-mcp-config: without a question the CLI
//     loads settings, hooks and MCP servers from the workspace, which may send
//     the API's key elsewhere and run commands. The flags --bare and --safe-mode
//     do not stop all of it.
//   - --model: the default is not the cheap one, and moves.
//   - --tools: the default set has tools that schedule work for later.
//   - --disable-slash-commands: no skill is offered that no template asked for.
//
// --bare would save a tenth of a start, but takes the tool Write away and reads
// no OAuth token.
func (d driver) arguments(l agent.Launch) ([]string, error) {
	p := l.Profile
	if l.Model == "" {
		return nil, invalid("no model is given")
	}
	if !slices.Contains(agent.PermissionModes, p.PermissionMode) {
		return nil, invalid("permission_mode %q: want one of %s", p.PermissionMode, strings.Join(agent.PermissionModes, ", "))
	}
	argv := []string{
		d.options.Program, "-p",
		"--input-format", "stream-json", "--output-format", "stream-json", "--verbose", "--include-partial-messages",
		"--model", l.Model,
		"--setting-sources", "", "--strict-mcp-config", "--disable-slash-commands",
		"--tools", strings.Join(p.Tools, ","),
		"--permission-mode", p.PermissionMode,
	}
	if p.MaxTurns > 0 {
		argv = append(argv, "--max-turns", strconv.Itoa(p.MaxTurns))
	}
	if p.MaxBudgetUSD > 0 {
		argv = append(argv, "--max-budget-usd", strconv.FormatFloat(p.MaxBudgetUSD, 'f', -1, 64))
	}
	memory, err := memoryArguments(l)
	if err != nil {
		return nil, err
	}
	return slices.Concat(argv, memory, p.ExtraArgs), nil
}

// memoryArguments name the conversation to go on with, or the new one's id.
//
// A conversation is named by its transcript's file where that is found: by an
// id, the CLI looks only into the folder of the working folder's path, which is
// another path on another backend. By a file it goes on in that file.
func memoryArguments(l agent.Launch) ([]string, error) {
	if l.Resume == "" {
		if !isUUID(l.NewID) {
			return nil, invalid("the new conversation's id %q is not a UUID", l.NewID)
		}
		return []string{"--session-id", l.NewID}, nil
	}
	// The id comes from a sandbox, and goes into a path.
	if !isUUID(l.Resume) {
		return nil, invalid("the conversation's id %q is not a UUID", l.Resume)
	}
	if t, ok := findTranscript(l.Home, l.Resume); ok {
		return []string{"--resume", t.sandbox}, nil
	}
	return []string{"--resume", l.Resume}, nil
}

// isUUID takes the one form that the CLI writes, of the four that there are.
func isUUID(id string) bool { return len(id) == 36 && uuid.Validate(id) == nil }

// tuned are the variables that make the CLI quicker to start than it is by itself.
// A profile may change them, and no others that are here.
var tuned = map[string]string{
	// The JIT's upper tier costs more than it gives in a program that mostly
	// waits: without it a start is a tenth shorter, and a turn is not longer.
	"BUN_JSC_useDFGJIT": "0",
	// In bytes, what is allocated before garbage is collected for the first time:
	// by its own 32 MiB the CLI collects twice more while it starts, which takes a
	// tenth of the start. With this it holds some 3 MiB more.
	"BUN_JSC_largeHeapSize": "67108864",
	// Where the system has ripgrep, that is what searches, and not the CLI itself,
	// which takes ten times as long to start as that; it does so three times before
	// its first turn.
	"USE_BUILTIN_RIPGREP": "0",
	// The system's list of certificate authorities is not read, which takes a
	// twentieth of a start. Only where no call of the CLI's own is over TLS.
	certStore: "bundled",
}

const certStore = "CLAUDE_CODE_CERT_STORE"

// TunedVariables returns the names of the variables that make the CLI quicker to
// start than it is by itself.
func TunedVariables() []string { return slices.Sorted(maps.Keys(tuned)) }

// environment is the CLI's whole environment. The variables that say where
// model calls go, and with what credentials, are the runner's alone: those of a
// task come from a client, who must not lead the runner's key elsewhere.
func environment(l agent.Launch) (map[string]string, error) {
	env := maps.Clone(tuned)
	if !l.ModelOnly {
		delete(env, certStore)
	}
	if l.Home.Sandbox == l.Home.Host {
		// In the host's own folder for temporary files, what the CLI keeps of its
		// tools' output would outlive the session.
		env["CLAUDE_CODE_TMPDIR"] = path.Join(l.Home.Sandbox, ".tmp")
	}
	for name, value := range l.Env {
		if slices.Contains(reserved, name) {
			return nil, invalid("env %s: the variable is the runner's own; model_api in the configuration says where model calls go", name)
		}
		env[name] = value
	}
	maps.Copy(env, map[string]string{
		"HOME": l.Home.Sandbox,
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
		"DISABLE_TELEMETRY":                        "1",
		"DISABLE_ERROR_REPORTING":                  "1",
		"DISABLE_AUTOUPDATER":                      "1",
		// Ten retries, the CLI's own number, take three minutes, also for a
		// key that is refused.
		"CLAUDE_CODE_MAX_RETRIES": "2",
		// A command that goes on in the background begins a turn of its own when
		// it ends, which nobody asked for.
		"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
	})
	if l.Ahead {
		env[envFileVariable] = path.Join(l.Run.Sandbox, envFile)
	}
	if stall := l.Profile.StallTimeout; stall > 0 {
		// A request without an answer's beginning is tried again once before
		// the watchdog ends the turn. The CLI's own bound is ten minutes.
		env["API_TIMEOUT_MS"] = strconv.FormatInt(max(stall.Milliseconds()/2, 1), 10)
	}
	for name, value := range map[string]string{
		"ANTHROPIC_BASE_URL":      l.API.BaseURL,
		"ANTHROPIC_API_KEY":       l.API.APIKey.Reveal(),
		"ANTHROPIC_AUTH_TOKEN":    l.API.AuthToken.Reveal(),
		"CLAUDE_CODE_OAUTH_TOKEN": l.API.OAuthToken.Reveal(),
	} {
		if value != "" {
			env[name] = value
		}
	}
	return env, nil
}

// reserved are the variables that neither a profile nor a task may set: those
// above, and others by which model calls or credentials would go elsewhere, the
// agent's memory would be lost, or its permissions would change.
var reserved = []string{
	"HOME", "CLAUDE_CONFIG_DIR",
	"ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN",
	"ANTHROPIC_UNIX_SOCKET", "ANTHROPIC_CUSTOM_HEADERS", "ANTHROPIC_BEDROCK_BASE_URL", "ANTHROPIC_VERTEX_BASE_URL",
	"ANTHROPIC_FOUNDRY_BASE_URL", "ANTHROPIC_AWS_BASE_URL",
	"CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY", "CLAUDE_CODE_USE_MANTLE",
	"CLAUDE_CODE_USE_ANTHROPIC_AWS", "CLAUDE_CODE_USE_GATEWAY",
	"CLAUDE_CODE_MAX_RETRIES", "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "CLAUDE_CODE_SUBPROCESS_ENV_SCRUB", "API_TIMEOUT_MS",
	"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING", "DISABLE_AUTOUPDATER",
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{agent.ErrInvalidLaunch}, args...)...)
}
