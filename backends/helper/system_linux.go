package helper

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ownProgram is where this process's program can be read, also where the file
// has been replaced.
func ownProgram() (string, error) { return "/proc/self/exe", nil }

// checkExecutable says why no program in dir could be run, by a mount's option
// that a sandbox's mounts inherit.
func checkExecutable(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	if fs.Flags&unix.ST_NOEXEC != 0 {
		return fmt.Errorf("no program can be run from %s: its file system is mounted with noexec; set data_dir to a folder elsewhere", dir)
	}
	return nil
}
