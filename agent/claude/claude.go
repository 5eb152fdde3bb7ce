// Package claude drives the Claude Code CLI: it starts it with what a profile
// asks for, gives it prompts over its standard input as stream-json, and makes
// events and results of what it says on its standard output. What the CLI does
// that its manual does not tell was measured on the version in the file
// VERSION; the driver relies on nothing else of a version, and leaves out what
// it does not know.
package claude

import (
	_ "embed"
	"strings"
	"time"

	"claude-runner/agent"
)

//go:embed VERSION
var version string

// TestedVersion is the CLI's version that the driver is tested with.
var TestedVersion = strings.TrimSpace(version)

// Options are what the driver has beside each agent's Launch. The zero Options
// are good.
type Options struct {
	// Program is the CLI as the sandbox finds it: a path, or a name in the
	// sandbox's PATH. Empty: "claude".
	Program string
	// Grace is how long an interrupted agent has to say what its turn cost,
	// before it counts as lost. 0: two seconds.
	Grace time.Duration
}

// New returns the driver.
func New(o Options) agent.Driver {
	if o.Program == "" {
		o.Program = "claude"
	}
	if o.Grace == 0 {
		o.Grace = 2 * time.Second
	}
	return driver{o}
}

// driver starts CLIs and opens conversations. It keeps nothing of either.
type driver struct{ options Options }
