//go:build !linux

package helper

import (
	"errors"
	"os"

	"claude-runner/backends/helper/inside"
)

var errNoLandlock = errors.New("this system has no Landlock, which is Linux's")

// LandlockABI says why this system has no Landlock.
func LandlockABI() (int, error) { return 0, errNoLandlock }

// ownProgram is where this process's program can be read.
func ownProgram() (string, error) { return os.Executable() }

func confine(inside.Options) error { return errNoLandlock }
