package proc_test

import (
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestTreeShares shows when a process's share of memory is read again: the
// kernel takes long for it.
func TestTreeShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		page := os.Getpagesize()
		megabyte := 1 << 20 / page
		child := process{pid: 8, parent: 7, started: 5, pages: 100 * megabyte, pss: 50 << 10, peak: 100 << 10}
		root := system(t, process{pid: 7, started: 3, pss: 900 << 10, children: "8"}.files(), child.files())
		tree := root.Below(7, "3")
		expect := func(when string, megabytes int64) {
			t.Helper()
			if got := tree.Usage().Memory >> 20; got != megabytes {
				t.Errorf("%s: %d MiB in use, want %d", when, got, megabytes)
			}
		}
		expect("at first, without the keeper", 50)
		child.pages, child.pss = 103*megabyte, 80<<10
		write(t, root, child.files())
		expect("3 MiB larger", 53)
		child.pages = 104 * megabyte
		write(t, root, child.files())
		expect("4 MiB larger", 80)
		child.pss = 30 << 10
		write(t, root, child.files())
		time.Sleep(29 * time.Second)
		expect("not larger, within half a minute", 80)
		time.Sleep(time.Second)
		expect("not larger, half a minute later", 30)
		child.pss, child.children = 20<<10, "9"
		write(t, root, child.files())
		write(t, root, process{pid: 9, parent: 8, started: 9, pss: 7 << 10}.files())
		expect("with another process", 27)
		remove(t, root, "/proc/9/smaps_rollup")
		if err := os.MkdirAll(string(root)+"/proc/9/smaps_rollup", 0o755); err != nil { // a file that can not be read
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		expect("where one can not be read", 0)
	})
}
