package backendtest

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// SmallDisk returns a folder like SharedDir's that is a file system of its own of
// so many bytes ("64m"), until the test ends. Mounting it needs root: without, the
// test is skipped, or fails where RequireVar names plain processes.
func SmallDisk(t testing.TB, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		Require(t, "local", errors.New("a file system of its own needs root"))
	}
	dir := SharedDir(t)
	Require(t, "local", os.NewSyscallError("mount", syscall.Mount("none", dir, "tmpfs", 0, "mode=0755,size="+size)))
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}
