package backendtest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"claude-runner/backends"
)

// Each limit is either held or named by Unenforced, and never hinders a start.
var limitCases = []testCase{
	{"memory: what is above it is killed, and told apart from a kill", (*suite).memoryLimit},
	{"memory: a main process that outlives a killed child ends as it ends", (*suite).childMemoryLimit},
	{"cpus: the tree gets no more processor time", (*suite).cpusLimit},
	{"pids: the tree has no more processes", (*suite).pidsLimit},
	{"open files: a process can open no more", (*suite).openFilesLimit},
	{"cpu time: a process that uses more is ended", (*suite).cpuTimeLimit},
	{"tmpfs: holds no more", (*suite).tmpfsLimit},
	{"Unenforced names only what is asked for and not held", (*suite).unenforced},
}

// limited runs spec, and returns false after checking that Unenforced names
// the one limit of spec where it is not held.
func (s *suite) limited(t *testing.T, spec backends.Spec, held bool, name string) (result, bool) {
	t.Helper()
	notes := s.caps.Unenforced(spec.Limits)
	if held {
		if len(notes) > 0 {
			t.Errorf("Unenforced says %q of a limit that is held", notes)
		}
		return s.run(t, spec), true
	}
	if len(notes) != 1 || !strings.Contains(notes[0], name) {
		t.Errorf("Unenforced says %q, want one sentence with %q", notes, name)
	}
	spec.Argv = []string{"true"}
	s.expectExit(t, spec, backends.Exit{})
	return result{}, false
}

func (s *suite) memoryLimit(t *testing.T) {
	const limit = 64 << 20
	hog := s.shell("exec tail /dev/zero") // which keeps a line in memory, and it does not end
	hog.Limits.Memory = limit
	if r, held := s.limited(t, hog, s.caps.Enforced.Memory, "memory"); held {
		if want := (backends.Exit{Code: -1, Signal: 9, OOMKilled: true}); r.exit != want {
			t.Errorf("a process above the memory limit ended with %+v, want %+v", r.exit, want)
		}
	}
	killed := s.shell("kill -9 $$; sleep 60")
	killed.Limits.Memory = limit
	s.expectExit(t, killed, backends.Exit{Code: -1, Signal: 9})
}

func (s *suite) childMemoryLimit(t *testing.T) {
	spec := s.shell("tail /dev/zero; echo survived; exit 3")
	spec.Limits.Memory = 64 << 20
	r, held := s.limited(t, spec, s.caps.Enforced.Memory, "memory")
	if want := (backends.Exit{Code: 3}); held && (r.exit != want || r.out != "survived\n") {
		t.Errorf("ended with %+v, output %q, want %+v", r.exit, r.out, want)
	}
}

func (s *suite) cpusLimit(t *testing.T) {
	const cpus, span = 0.25, 2 * time.Second
	spec := s.shell(fmt.Sprintf("timeout %d sh -c 'while :; do :; done'; times", int(span.Seconds())))
	spec.Limits.CPUs = cpus
	r, held := s.limited(t, spec, s.caps.Enforced.CPUs, "cpus")
	if !held {
		return
	}
	used, err := childTime(r.out)
	if err != nil {
		t.Fatal(err)
	}
	if limit := time.Duration(2 * cpus * float64(span)); used > limit {
		t.Errorf("a busy loop of %v under a limit of %v processors used %v, want at most %v", span, cpus, used, limit)
	}
}

// childTime reads the children's user time from the output of the shell's
// times: its second line, first field, like 0m1.250000s.
func childTime(out string) (time.Duration, error) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	fields := strings.Fields(lines[len(lines)-1])
	if len(fields) == 0 {
		return 0, fmt.Errorf("times said %q", out)
	}
	return time.ParseDuration(fields[0])
}

func (s *suite) pidsLimit(t *testing.T) {
	spec := s.shell("i=0; while [ $i -lt 60 ]; do sleep $" + markVar + " & i=$((i+1)); done; echo all")
	spec.Limits.PIDs = 30
	if r, held := s.limited(t, spec, s.caps.Enforced.PIDs, "pids"); held && strings.Contains(r.out, "all") {
		t.Errorf("60 processes were started under a limit of %d", spec.Limits.PIDs)
	}
}

func (s *suite) openFilesLimit(t *testing.T) {
	spec := s.shell("ulimit -Sn; ulimit -Hn")
	spec.Limits.OpenFiles = 99
	if r, held := s.limited(t, spec, s.caps.Enforced.OpenFiles, "open_files"); held && r.out != "99\n99\n" {
		t.Errorf("the limits of open files, soft and hard, are %q, want 99 and 99", r.out)
	}
}

func (s *suite) cpuTimeLimit(t *testing.T) {
	spec := s.shell("while :; do :; done")
	spec.Limits.CPUTime = time.Second
	if r, held := s.limited(t, spec, s.caps.Enforced.CPUTime, "cpu_time"); held && r.exit.Signal != 9 && r.exit.Signal != 24 {
		t.Errorf("a busy loop ended with %+v, want SIGXCPU (24) or SIGKILL (9)", r.exit)
	}
}

func (s *suite) tmpfsLimit(t *testing.T) {
	const size = 1 << 20
	spec := s.shell(fmt.Sprintf("head -c %d /dev/zero > /scratch/small && ! head -c %d /dev/zero > /scratch/large && wc -c < /scratch/large",
		size/4, 2*size))
	spec.Limits.Tmpfs = map[string]int64{"/scratch": size}
	r, held := s.limited(t, spec, s.caps.Enforced.Tmpfs, "tmpfs")
	if !held {
		return
	}
	if n, err := strconv.Atoi(strings.TrimSpace(r.out)); err != nil || n > size {
		t.Errorf("a tmpfs of %d bytes holds %q, %v; stderr %q", size, r.out, err, r.err)
	}
}

func (s *suite) unenforced(t *testing.T) {
	if notes := s.caps.Unenforced(backends.Limits{}); len(notes) > 0 {
		t.Errorf("Unenforced says %q of no limit", notes)
	}
	// All limits at once hinder no start, whatever of them is held.
	spec := s.shell("echo ok")
	spec.Limits = backends.Limits{Memory: 64 << 20, CPUs: 0.5, PIDs: 20, OpenFiles: 64, CPUTime: time.Minute, Tmpfs: map[string]int64{"/tmp": 1 << 20}}
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "ok\n" {
		t.Errorf("output %q, want %q", r.out, "ok\n")
	}
}
