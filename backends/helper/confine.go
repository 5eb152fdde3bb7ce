package helper

import (
	"fmt"
	"os"
	"path/filepath"

	"claude-runner/backends/helper/inside"
)

// Confinement is what Landlock leaves the agent, and all that it starts, of the
// host's files. The system's own folders can be read as well (see systemFolders),
// and so can those of the PATH; /tmp, /dev/shm and a few devices can be written.
// All else is closed, whatever its mode and owner: reading, writing, listing.
// Processes outside can not be signalled or looked into.
type Confinement struct {
	ReadWrite []string // the workspace, HOME, the run folder
	ReadOnly  []string
}

// systemFolders can be read and run from: what programs need of a system,
// and nobody's own files.
var systemFolders = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/proc", "/sys", "/dev",
	"/run/systemd/resolve", "/run/resolvconf", "/run/nscd", "/nix", "/gnu", "/var/lib/ca-certificates",
}

// sharedFolders can be written, by every sandbox.
var sharedFolders = []string{"/tmp", "/var/tmp", "/dev/shm", "/dev/pts"}

// devices can be written, and so can terminals.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"}

// Exposes returns the folder by which an agent so confined can still read path,
// as one in /tmp or below /opt; "" where it can not. Landlock allows whole
// folders, and can not except one below them.
func (c Confinement) Exposes(path string) string {
	path = resolved(path)
	for _, list := range [][]string{c.ReadWrite, c.ReadOnly, systemFolders, sharedFolders} {
		for _, allowed := range list {
			rel, err := filepath.Rel(resolved(allowed), path)
			if err == nil && filepath.IsLocal(rel) {
				return allowed
			}
		}
	}
	return ""
}

// init turns this process into a helper where it was started as one whose agent
// is confined.
func init() {
	if !inside.Started() {
		return
	}
	o, err := inside.Parse(os.Args[1:])
	if err == nil {
		if err = confine(o); err != nil {
			err = fmt.Errorf("confine the agent's files: %w", err)
		}
	}
	inside.Main(o, err)
}

// programFolders are where the agent's programs are: the folders of the PATH,
// and that of its main program's file, which the PATH may only link to.
func programFolders(program string) []string {
	var out []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) && filepath.Clean(dir) != "/" {
			out = append(out, dir)
		}
	}
	if path, err := inside.Find(program, os.Getenv("PATH")); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil && filepath.Dir(path) != "/" {
			out = append(out, filepath.Dir(path))
		}
	}
	return out
}

// resolved is path without links, as far as it exists.
func resolved(path string) string {
	path = filepath.Clean(path)
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	if parent := filepath.Dir(path); parent != path {
		return filepath.Join(resolved(parent), filepath.Base(path))
	}
	return path
}
