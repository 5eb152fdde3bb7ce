//go:build !linux

package podman

import "context"

// maxOpenFiles returns 0: the service runs in a virtual machine, where its
// limits are not to be seen.
func maxOpenFiles(context.Context, *client) uint64 { return 0 }
