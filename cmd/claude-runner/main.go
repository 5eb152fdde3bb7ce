// Command claude-runner runs AI agents as a service: it takes a message for a
// session over HTTP, runs the session's agent in a sandbox, streams what the
// agent does, and answers with structured JSON, its cost and its duration.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	_ "claude-runner/agent/nothing"   // under its name, this program is an agent that does nothing
	_ "claude-runner/backends/helper" // in a sandbox, this program is its helper
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// Exit codes of the program, for scripts.
const (
	exitOK       = 0
	exitFailed   = 1 // the task, the server or a check failed
	exitUsage    = 2 // the command line, the configuration or the request will not do
	exitTimedOut = 3
	exitAborted  = 4
	exitBudget   = 5
)

// exitError is an error that ends the program with a code of its own.
type exitError struct {
	code int
	err  error // nil: all has been said
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string) int {
	cmd := rootCommand()
	cmd.SetArgs(args)
	return exitCode(cmd, cmd.ExecuteContext(ctx))
}

// exitCode says what went wrong, and returns the code for it. What is no
// command's error is the command line's.
func exitCode(root *cobra.Command, err error) int {
	if err == nil {
		return exitOK
	}
	exit, ok := errors.AsType[*exitError](err)
	if !ok {
		exit = &exitError{exitUsage, fmt.Errorf("%w; see %s --help", err, root.Name())}
	}
	if exit.err != nil {
		fmt.Fprintln(root.ErrOrStderr(), "claude-runner:", exit.err)
	}
	return exit.code
}

// markErrors gives every error of cmd's commands an exit code.
func markErrors(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			err := run(cmd, args)
			if _, ok := errors.AsType[*exitError](err); err == nil || ok {
				return err
			}
			return &exitError{exitFailed, err}
		}
	}
	for _, sub := range cmd.Commands() {
		markErrors(sub)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "claude-runner",
		Short:         "Run AI agents as a service",
		Long:          "claude-runner runs AI agents in sandboxes and serves them over HTTP and WebSocket.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &exitError{exitUsage, fmt.Errorf("%w; see %s --help", err, c.CommandPath())}
	})
	root.AddCommand(
		serveCommand(), runCommand(), doctorCommand(), configCommand(),
		initCommand(), keysCommand(), benchCommand(), scriptedCommand(), versionCommand(),
	)
	markErrors(root)
	return root
}
