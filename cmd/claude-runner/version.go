package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"claude-runner/agent/claude"
)

// stamp is the version that the Makefile gives to the linker.
var stamp string

// version is the stamp; a binary of `go install` says what the build recorded.
var version = cmp.Or(stamp, buildVersion())

func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, and that of the Claude Code CLI it is tested with",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "claude-runner %s (%s, %s/%s)\nClaude Code CLI %s is what it is tested with\n",
				version, runtime.Version(), runtime.GOOS, runtime.GOARCH, claude.TestedVersion)
			return err
		},
	}
}
