//go:build !linux

package helper

import (
	"errors"

	"claude-runner/backends/helper/inside"
)

var errNoLandlock = errors.New("this system has no Landlock, which is Linux's")

// LandlockSupported says why this system has no Landlock.
func LandlockSupported() (int, error) { return 0, errNoLandlock }

func confine(inside.Options) error { return errNoLandlock }
