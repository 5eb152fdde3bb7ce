//go:build unix

package session

import (
	"io/fs"
	"syscall"

	"claude-runner/backends"
)

// ownedBy reports whether a file is owner's.
func ownedBy(info fs.FileInfo, owner backends.User) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == owner.UID && int(st.Gid) == owner.GID
}
