//go:build !linux

package helper

import "os"

// ownProgram is where this process's program can be read.
func ownProgram() (string, error) { return os.Executable() }

// checkExecutable knows of no reason why a program in dir could not be run.
func checkExecutable(string) error { return nil }
