package config

import "claude-runner/agent"

// The tests' host has two processors and 16 GiB.
func init() {
	processors = func() int { return 2 }
	idleMemory = func() agent.Bytes { return 8 << 30 }
}

// WatchWith is Watch with a clock of the test's own.
var WatchWith = watch
