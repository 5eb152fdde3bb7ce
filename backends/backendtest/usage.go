package backendtest

import (
	"testing"
	"time"

	"claude-runner/backends"
)

var usageCases = []testCase{
	{"figures are sane while the sandbox runs, after its end and after Stop", (*suite).usage},
	{"memory in use grows and shrinks with what the processes hold", (*suite).memoryInUse},
	{"processor time is current while the sandbox runs", (*suite).processorTime},
	{"a sandbox that is taken over is measured", (*suite).usageRecovered},
}

func (s *suite) usage(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo ready; read x"))
	began := time.Now()
	get := func() backends.Usage {
		t.Helper()
		u := usageOf(t, sb)
		if u.CPU < 0 || u.Memory < 0 || u.CPU > 64*(time.Since(began)+10*time.Second) || u.Memory > u.MemoryPeak || u.MemoryPeak > 1<<36 {
			t.Errorf("Usage makes no sense: %+v", u)
		}
		return u
	}
	expectOutput(t, sb.Stdout(), "ready\n")
	running := get()
	finish(t, sb)
	ended := get()
	stop(t, sb, 0)
	stopped := get()
	if ended.CPU < running.CPU || stopped.CPU < ended.CPU {
		t.Errorf("processor time shrinks: %v running, %v ended, %v stopped", running.CPU, ended.CPU, stopped.CPU)
	}
	if ended.MemoryPeak < running.MemoryPeak || stopped.MemoryPeak < ended.MemoryPeak {
		t.Errorf("the peak of memory shrinks: %d running, %d ended, %d stopped", running.MemoryPeak, ended.MemoryPeak, stopped.MemoryPeak)
	}
	if running.Memory > 0 && (ended.Memory == 0 || stopped.Memory != ended.Memory) {
		t.Errorf("memory in use is %d running, %d ended, %d stopped; want what was known last", running.Memory, ended.Memory, stopped.Memory)
	}
	t.Logf("usage: running %+v, ended %+v", running, ended)
}

// memoryInUse has a process hold 64 MiB, and end: tail keeps a line in memory
// until it has all of it.
func (s *suite) memoryInUse(t *testing.T) {
	const least, most, rest = 60 << 20, 100 << 20, 8 << 20
	spec := s.shell(`exec 3>&1; echo ready; read x
		{ head -c 67108864 /dev/zero; echo full >&3; read x; } | tail -n 1 >/dev/null; echo freed; read x`)
	sb := s.start(t, s.backend(t), spec)
	expectOutput(t, sb.Stdout(), "ready\n")
	before := usageOf(t, sb)
	if before.Memory == 0 {
		t.Skip("this backend does not say how much memory is in use")
	}
	goOn(t, sb)
	expectOutput(t, sb.Stdout(), "full\n")
	full := usageOf(t, sb)
	if grown := full.Memory - before.Memory; grown < least || grown > most {
		t.Errorf("memory in use grew from %d by %d bytes, want %d to %d", before.Memory, grown, least, most)
	}
	goOn(t, sb)
	expectOutput(t, sb.Stdout(), "freed\n")
	after := usageOf(t, sb)
	if left := after.Memory - before.Memory; left > rest {
		t.Errorf("memory in use is still %d bytes above %d when all is freed", left, before.Memory)
	}
	if after.MemoryPeak < full.Memory {
		t.Errorf("the peak of memory is %d, and %d were in use", after.MemoryPeak, full.Memory)
	}
	t.Logf("memory in use: %d before, %d with 64 MiB, %d afterwards", before.Memory, full.Memory, after.Memory)
}

func (s *suite) processorTime(t *testing.T) {
	sb := s.start(t, s.backend(t), s.shell("echo ready; read x; i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done; echo busy; read x"))
	expectOutput(t, sb.Stdout(), "ready\n")
	idle := usageOf(t, sb)
	goOn(t, sb)
	expectOutput(t, sb.Stdout(), "busy\n")
	busy := usageOf(t, sb)
	if busy.CPU == 0 {
		t.Skip("this backend does not say how much processor time is used")
	}
	if busy.CPU < idle.CPU+50*time.Millisecond { // the loop takes some 300
		t.Errorf("processor time is %v before a busy loop and %v after it", idle.CPU, busy.CPU)
	}
}

func (s *suite) usageRecovered(t *testing.T) {
	if !s.caps.Recover {
		t.Skip("the backend does not recover")
	}
	b := s.backend(t)
	first := s.start(t, b, s.sleeper())
	expectOutput(t, first.Stdout(), "ready\n")
	known := usageOf(t, first)
	second := s.takeOver(t, first.Handle(), 0)
	if u := usageOf(t, second); known.Memory > 0 && u.Memory == 0 {
		t.Errorf("memory in use is %d, and not known once the sandbox is taken over", known.Memory)
	}
}

func usageOf(t testing.TB, sb backends.Sandbox) backends.Usage {
	t.Helper()
	u, err := sb.Usage(within(t))
	if err != nil {
		t.Fatalf("Usage: %v", err)
	}
	return u
}

// goOn writes the line that a script waits for.
func goOn(t testing.TB, sb backends.Sandbox) {
	t.Helper()
	if _, err := sb.Stdin().Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
}
