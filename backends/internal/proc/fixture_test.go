package proc_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"claude-runner/backends/internal/proc"
)

// files are a system's, by their path.
type files map[string]string

// system writes the files and returns where they are.
func system(t *testing.T, all ...files) proc.Root {
	t.Helper()
	root := proc.Root(t.TempDir())
	for _, f := range all {
		write(t, root, f)
	}
	return root
}

func write(t *testing.T, root proc.Root, f files) {
	t.Helper()
	for path, text := range f {
		path = filepath.Join(string(root), path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, root proc.Root, path string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(string(root), path)); err != nil {
		t.Fatal(err)
	}
}

// process is what /proc has of one with a thread.
type process struct {
	pid, parent int
	state       string // "": S
	ticks       [4]int // user, system, and of children user, system
	started     int
	pages       int
	pss, peak   int // KiB
	children    string
	cmdline     string
}

func (p process) files() files {
	if p.state == "" {
		p.state = "S"
	}
	dir := fmt.Sprintf("/proc/%d/", p.pid)
	return files{
		dir + "stat": fmt.Sprintf("%d (a (b) c) %s %d 1 1 0 -1 0 7 7 7 7 %d %d %d %d 20 0 1 0 %d 4096 %d 99\n",
			p.pid, p.state, p.parent, p.ticks[0], p.ticks[1], p.ticks[2], p.ticks[3], p.started, p.pages),
		dir + "smaps_rollup": fmt.Sprintf("00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss: 9 kB\nPss:     %d kB\nPss_Dirty: 1 kB\n", p.pss),
		dir + "status":       fmt.Sprintf("Name:\tx\nVmHWM:\t  %d kB\n", p.peak),
		dir + fmt.Sprintf("task/%d/children", p.pid): p.children,
		dir + "cmdline": strings.ReplaceAll(p.cmdline, " ", "\x00") + "\x00",
	}
}
