//go:build !linux

package podman

import "context"

// helpers knows nothing: the engine runs in a virtual machine.
type helpers struct{}

func (b *Backend) helpers(context.Context, string) helpers { return helpers{} }

func (helpers) await(context.Context) error { return nil }
