package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"claude-runner/agent/claude"
	"claude-runner/agent/gateway"
	"claude-runner/agent/nothing"
	"claude-runner/backends/backendtest"
)

// BenchmarkThroughput tells how many tasks the whole program takes to their end
// in a second, where their agents are hot and do nothing: over HTTP, each
// acknowledged when it is in the database. Its metrics are that number, the
// times from a request to its answer, and the processor time of a task by who
// used it. It is loaded for LOAD_TIME, once.
func BenchmarkThroughput(b *testing.B) {
	for _, sessions := range []int{16, 64} {
		b.Run(fmt.Sprintf("sessions=%d", sessions), func(b *testing.B) {
			p := startIdlers(b)
			for b.Loop() {
				p.throughput(b, sessions)
			}
		})
	}
}

// idlers is the program with agents that do nothing.
type idlers struct {
	*app
	address string
}

// loadTime is how long the program is loaded; LOAD_TIME is another.
func loadTime(b *testing.B) time.Duration {
	text := os.Getenv("LOAD_TIME")
	if text == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// startIdlers starts the program as serve does, with its log in a file.
func startIdlers(b *testing.B) *idlers {
	b.Helper()
	dir := backendtest.SharedDir(b)
	cli, err := nothing.Install(dir)
	if err != nil {
		b.Fatal(err)
	}
	cfg := loadConfig(b, "testdata/throughput.yaml", map[string]string{"DATA_DIR": filepath.Join(dir, "data")})
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	a, err := openAppWith(b.Context(), cfg, newLogger(cfg, log), claude.Options{Program: cli})
	if err != nil {
		b.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.Serve(serving, ln) }()
	b.Cleanup(func() {
		stop()
		for _, err := range []error{<-served, a.Close(context.Background()), log.Close()} {
			if err != nil {
				b.Error(err)
			}
		}
	})
	return &idlers{a, ln.Addr().String()}
}

// throughput loads the program and reports.
func (p *idlers) throughput(b *testing.B, sessions int) {
	b.Helper()
	l := load{Address: p.address, Warm: 3 * time.Second, For: loadTime(b)}
	for i := range sessions {
		l.Sessions = append(l.Sessions, fmt.Sprintf("session-%d", i))
	}
	own, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := &exec.Cmd{Path: own, Args: []string{loadName}, Stderr: os.Stderr}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	if err := json.NewEncoder(in).Encode(l); err != nil {
		b.Fatal(err)
	}
	answers := json.NewDecoder(out)
	var counting string
	if err := answers.Decode(&counting); err != nil {
		b.Fatal(err)
	}
	before, selfBefore := cpuByRole(b), cpuTime()
	var r loaded
	err = answers.Decode(&r)
	after, selfAfter := cpuByRole(b), cpuTime()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	perTask := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(r.Tasks) }
	b.ReportMetric(float64(r.Tasks)/r.Took.Seconds(), "tasks/s")
	b.ReportMetric(float64(r.P50.Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(r.P99.Microseconds())/1000, "ms-p99")
	b.ReportMetric(perTask(selfAfter-selfBefore), "µs-server")
	b.ReportMetric(perTask(r.CPU), "µs-load")
	for role, used := range after {
		b.ReportMetric(perTask(used-before[role]), "µs-"+role)
	}
}

// cpuByRole is the processor time of the program's other processes.
func cpuByRole(b *testing.B) map[string]time.Duration {
	b.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	used := map[string]time.Duration{}
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err != nil {
			continue
		}
		name, _, _ := strings.Cut(string(line), "\x00")
		role := map[string]string{
			gateway.ProcessName: "gateway", "claude-runner-sandbox": "keepers", nothing.Name: "agents",
		}[filepath.Base(name)]
		if role == "" {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, n := range fields[11:13] { // utime and stime, of which a second has 100
			ticks, err := strconv.Atoi(n)
			if err != nil {
				b.Fatal(err)
			}
			used[role] += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return used
}
