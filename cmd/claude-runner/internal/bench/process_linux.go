package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// processesIn lists the processes that work in a folder, by its name: their
// command line or working folder is in it or, where they are in a container, a
// folder in it is mounted there. Those that this user may not look at are missing.
func processesIn(dir string) ([]foundProcess, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []foundProcess
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(procFile(pid, "cmdline"))
		if err != nil || len(line) == 0 { // it has ended, or is the kernel's
			continue
		}
		cwd, _ := os.Readlink(procFile(pid, "cwd"))
		mounts, _ := os.ReadFile(procFile(pid, "mountinfo"))
		if !bytes.Contains(line, []byte(dir)) && !strings.Contains(cwd, dir) && !bytes.Contains(mounts, []byte(dir)) {
			continue
		}
		name, _, _ := bytes.Cut(line, []byte{0})
		found = append(found, foundProcess{pid, filepath.Base(string(name))})
	}
	return found, nil
}

func procFile(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// useOf is what a process holds and has taken; zero where that is not told.
func useOf(pid int) processUse {
	return processUse{memory: kilobytes(procFile(pid, "smaps_rollup"), "Pss:"), cpu: cpuOf(pid)}
}

// residentBytes is a process's resident memory, shared pages included.
func residentBytes(pid int) int64 { return kilobytes(procFile(pid, "status"), "VmRSS:") }

// descriptors is the number of a process's open files.
func descriptors(pid int) int {
	entries, err := os.ReadDir(procFile(pid, "fd"))
	if err != nil {
		return 0
	}
	return len(entries)
}

// kilobytes returns, in bytes, the value of a line of a file of /proc.
func kilobytes(path, name string) int64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == name {
			n, _ := strconv.ParseInt(fields[1], 10, 64) // the kernel writes numbers
			return n << 10
		}
	}
	return 0
}

// cpuOf is the processor time of a process.
func cpuOf(pid int) time.Duration {
	data, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(data[bytes.LastIndexByte(data, ')'):], []byte(" ")) // the name may hold anything
	fields := strings.Fields(string(rest))
	if len(fields) < 13 {
		return 0
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if errors.Join(err1, err2) != nil {
		return 0
	}
	const tick = time.Second / 100 // USER_HZ, on every architecture that Go has
	return tick * time.Duration(user+system)
}

// cpuModel and hostMemory describe this machine.
func cpuModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func hostMemory() int64 { return kilobytes("/proc/meminfo", "MemTotal:") }
