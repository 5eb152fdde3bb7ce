package helper

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"

	"claude-runner/backends/helper/inside"
)

// LandlockSupported returns the version of Landlock that the kernel has, above zero,
// or why it has none. From version 3 on files are held whole (truncation too),
// from 6 on signals.
func LandlockSupported() (int, error) {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch errno {
	case 0:
		return int(v), nil
	case unix.EOPNOTSUPP:
		return 0, errors.New("the kernel has Landlock, but it is not enabled: add landlock to lsm= of the kernel's command line")
	case unix.ENOSYS:
		return 0, errors.New("the kernel has no Landlock: it came with Linux 5.13 and is a part of most distributions' kernels")
	}
	return 0, fmt.Errorf("ask the kernel for Landlock: %w", errno)
}

// newest is the version of Landlock whose restrictions are asked for, but for
// those of the network; an older kernel holds what it can. Files and signals are
// one set of rules: a set without rules on files forbids what every set must
// allow, moves to another folder.
var newest = landlock.Config{HandledAccessFS: landlock.V7.HandledAccessFS, Scoped: landlock.V7.Scoped}.BestEffort()

// confine bounds this process's files, and those of all that it starts.
func confine(o inside.Options) error {
	abi, err := LandlockSupported()
	if err != nil {
		return err
	}
	readOnly := append(slices.Clone(o.ReadOnly), existing(append(programFolders(o.Argv[0]), systemFolders...))...)
	readWrite := append(slices.Clone(o.ReadWrite), existing(append(slices.Clone(sharedFolders), devices...))...)
	rules := append(readRules(readOnly), writeRules(readWrite, abi >= 2)...)
	return newest.Restrict(rules...)
}

// readRules and writeRules tell folders from files, which may not have the same
// rights.
func readRules(paths []string) []landlock.Rule {
	var out []landlock.Rule
	for _, p := range paths {
		if isFolder(p) {
			out = append(out, landlock.RODirs(p))
		} else {
			out = append(out, landlock.ROFiles(p))
		}
	}
	return out
}

// writeRules also lets terminals be used; other devices are closed by their
// owner and mode. With refer, files can be moved from one folder to another:
// before version 2 they can not, and to ask for it undoes the rest.
func writeRules(paths []string, refer bool) []landlock.Rule {
	var out []landlock.Rule
	for _, p := range paths {
		r := landlock.RWFiles(p)
		if isFolder(p) {
			r = landlock.RWDirs(p)
			if refer {
				r = r.WithRefer()
			}
		}
		out = append(out, r.WithIoctlDev())
	}
	return out
}

// existing are those of paths that are there and can be opened: what the caller
// does not name is not missed.
func existing(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
		fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err != nil
	})
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
