package main

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"claude-runner/agent/clitest"
)

func TestMain(m *testing.M) {
	forgetHost()
	goleak.VerifyTestMain(idle{m},
		// database/sql's own goroutine ends a moment after Close.
		goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"),
		// The HTTP server's library keeps the date for as long as the process
		// lives, and looks only every ten seconds whether its pool of workers is closed.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		// bench's client looks for idle connections as rarely.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*TCPDialer).tcpAddrsClean"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*Client).mCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
	)
}

// idle closes the connections that the program keeps for its next request.
type idle struct{ *testing.M }

func (m idle) Run() int {
	defer http.DefaultClient.CloseIdleConnections()
	return m.M.Run()
}

// forgetHost unsets what of this host's environment is the program's
// configuration: only the tests' own counts.
func forgetHost() {
	names := []string{"PORT", "MODEL", "MAX_TURNS", "IDLE_TIMEOUT_MS", "DOCKER_IMAGE", "AGENT_DIR", "SESSIONS_DIR"}
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		ofProgram := slices.Contains(names, name) || strings.HasPrefix(name, "ANTHROPIC_") || strings.HasPrefix(name, "CLAUDE_") ||
			strings.HasPrefix(name, "OTEL_")
		if ofProgram && name != clitest.EnvPath {
			_ = os.Unsetenv(name)
		}
	}
}
