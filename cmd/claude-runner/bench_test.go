package main

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"claude-runner/agent/clitest"
	"claude-runner/agent/scripted"
	"claude-runner/backends"
	"claude-runner/backends/docker"
)

// samples is how many turns a benchmark's median is of. They are one operation.
const samples = 20

// BenchmarkTurn measures a whole task in a new session, one at a time: from the
// client's submit to the agent's first model request, and to the client's
// answer. The model takes no time.
func BenchmarkTurn(b *testing.B) {
	for _, kind := range kinds() {
		b.Run(kind.Name, func(b *testing.B) {
			asked, url := startAsked(b, "127.0.0.1:0")
			cfg := loadConfig(b, testConfig, with(variables(b, kind.Name, url), "CLAUDE_RUNNER_LOG__LEVEL", "warn"))
			p := startProgram(b, cfg)
			requireAgent(b, p, kind.Name)
			n := 0
			measure(b, asked, func() {
				n++
				if r := p.chat(b, "").other(fmt.Sprint(n)).send("say: hello"); r.status != http.StatusOK {
					b.Fatalf("%d %s", r.status, r.body)
				}
			})
		})
	}
}

// plainArgs have the CLI answer one message and end.
var plainArgs = []string{
	"-p", "--output-format", "stream-json", "--verbose", "--model", "claude-sonnet-4-6", "--system-prompt", "You are a worker.",
	"--setting-sources", "", "--strict-mcp-config", "--tools", "Bash", "--permission-mode", "bypassPermissions", "say: hello",
}

// BenchmarkPlainCLI is what BenchmarkTurn is compared with: the CLI alone, in a
// new HOME, as a plain process.
func BenchmarkPlainCLI(b *testing.B) {
	clitest.Path(b)
	asked, url := startAsked(b, "127.0.0.1:0")
	measure(b, asked, func() {
		runPlain(b, clitest.Command(context.Background(), b, clitest.Dir(b), url, nil, plainArgs...))
	})
}

// BenchmarkDockerRun is another comparison: `docker run --rm` with the CLI in
// it, and none of what keeps a sandbox apart or a session together.
func BenchmarkDockerRun(b *testing.B) {
	path, err := exec.LookPath("docker")
	if err != nil {
		b.Skip(err)
	}
	asked, url := startAsked(b, "0.0.0.0:0") // where the engine's network leads
	p := startProgram(b, loadConfig(b, testConfig, variables(b, docker.Kind().Name, url)))
	requireAgent(b, p, docker.Kind().Name) // the engine and the image are there
	args := []string{
		"run", "--rm", "--init", "--user", "10001:10001", "--workdir", "/tmp", "--add-host", backends.HostAlias + ":host-gateway",
		"--env", "HOME=/tmp", "--env", "ANTHROPIC_API_KEY=x", "--env", "ANTHROPIC_BASE_URL=" + strings.Replace(url, "127.0.0.1", backends.HostAlias, 1),
		"--env", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", p.cfg.Agents["worker"].Image, "claude",
	}
	measure(b, asked, func() { runPlain(b, exec.Command(path, append(args, plainArgs...)...)) })
}

func runPlain(b *testing.B, cmd *exec.Cmd) {
	b.Helper()
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), `"result":"hello"`) {
		b.Fatalf("%v\n%s", err, out)
	}
}

// startAsked starts the model on an address of this host, and returns a channel
// with the time of each of its requests.
func startAsked(b *testing.B, address string) (<-chan time.Time, string) {
	asked := make(chan time.Time, 100)
	_, url := startModelOn(b, address, "testdata/script.yaml", scripted.Options{OnRequest: func(r scripted.Request) { asked <- r.At }})
	return asked, url
}

// measure runs turns and reports the medians of their times in milliseconds.
func measure(b *testing.B, asked <-chan time.Time, turn func()) {
	b.Helper()
	turn() // warm up: page cache, image, connections
	for len(asked) > 0 {
		<-asked
	}
	var toRequest, toAnswer []time.Duration
	for b.Loop() {
		for range samples {
			begun := time.Now()
			turn()
			toAnswer = append(toAnswer, time.Since(begun))
			toRequest = append(toRequest, (<-asked).Sub(begun))
		}
	}
	b.ReportMetric(median(toRequest), "ms-to-request")
	b.ReportMetric(median(toAnswer), "ms-to-answer")
}

func median(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[len(times)/2].Microseconds()) / 1000
}
