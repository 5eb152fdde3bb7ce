// Package proc measures what sandboxes use by what Linux tells of control
// groups and processes. It never asks an engine. On other systems it finds
// nothing.
package proc

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Root is the folder below which /proc and the cgroups are found.
type Root string

// Host is this system.
const Host Root = "/"

// Usage is what was measured. A figure that is not to be had is zero.
type Usage struct {
	CPU        time.Duration // user and system
	Memory     int64         // bytes in use now
	MemoryPeak int64         // bytes, the most that the kernel remembers
}

// file returns the path of a file of this system.
func (r Root) file(elem ...string) string {
	return filepath.Join(append([]string{string(r)}, elem...)...)
}

// process returns the path of a file that tells of a process.
func (r Root) process(pid int, elem ...string) string {
	return r.file(append([]string{"proc", strconv.Itoa(pid)}, elem...)...)
}

// readNumber reads a file that holds a number.
func readNumber(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// readValue reads a file for the value of a key.
func readValue(path, key string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return value(string(data), key)
}

// value returns the number after a key at the beginning of a line: "key 1", or
// "Key:   1 kB", which is made bytes. It is zero where there is no such key.
func value(text, key string) (int64, error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, key)
		if !ok || !strings.HasPrefix(rest, " ") && !strings.HasPrefix(rest, "\t") {
			continue
		}
		number, kilo := strings.CutSuffix(strings.TrimSpace(rest), " kB")
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if kilo {
			n <<= 10
		}
		return n, err
	}
	return 0, nil
}
