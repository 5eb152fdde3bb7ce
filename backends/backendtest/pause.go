package backendtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"claude-runner/backends"
)

// readerPauses lets processes end with unread output, and reads it a good while
// later. The output is as long as what fits between a process and a reader that
// does not read, and a little less, so that all buffers on the way are full.
func (s *suite) readerPauses(t *testing.T) {
	const block, most = 8 << 10, 512 // a backend need not make a process wait at all
	b := s.backend(t)
	writer := func(blocks int) (backends.Sandbox, string) {
		spec := s.shell(fmt.Sprintf("i=0; while [ $i -lt %d ]; do head -c %d /dev/zero; i=$((i+1)); echo $i > $W/count; done; touch $W/ended", blocks, block))
		dir := s.folder(t, &spec)
		return s.start(t, b, spec), dir
	}

	_, dir := writer(most)
	fit := settled(dir)
	var sandboxes []backends.Sandbox
	var dirs []string
	less := []int{1, 2, 4, 6}
	for _, n := range less {
		sb, dir := writer(max(fit-n, 1))
		sandboxes, dirs = append(sandboxes, sb), append(dirs, dir)
	}
	for _, dir := range dirs {
		settled(dir)
	}
	time.Sleep(4 * time.Second) // the pause: an engine may give up on the output of a process that has ended
	for i, sb := range sandboxes {
		want := max(fit-less[i], 1) * block
		if r := finish(t, sb); len(r.out) != want || r.exit != (backends.Exit{}) {
			t.Errorf("of %d bytes, %d KiB less than what fits, %d were read; ended with %+v", want, less[i]*block>>10, len(r.out), r.exit)
		}
	}
}

// settled returns how many blocks have been written, once the writer has ended
// or, for lack of a reader, writes no more.
func settled(dir string) int {
	blocks := 0
	began := time.Now()
	for changed := began; time.Since(changed) < time.Second && time.Since(began) < patience; time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(filepath.Join(dir, "count")) // not there at first, or just cut
		if n, _ := strconv.Atoi(strings.TrimSpace(string(text))); n != blocks || n == 0 {
			blocks, changed = n, time.Now()
		}
		if _, err := os.Stat(filepath.Join(dir, "ended")); err == nil && blocks > 0 {
			break
		}
	}
	return blocks
}
