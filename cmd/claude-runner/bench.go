package main

import (
	"errors"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"claude-runner/agent"
	"claude-runner/cmd/claude-runner/internal/bench"
)

func benchCommand() *cobra.Command {
	o := bench.Options{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure what this machine gives: starts, bursts, load, memory, the runner's own part",
		Long: `Measure the runner on this machine, on each backend that works here, with the real Claude Code CLI and a
scripted model that takes no time and costs nothing. A server of its own is started and ended, with data in a
folder of its own; a configuration is not needed and not read.

The parts, for --only:
  cold      turns of new sessions, from the submit to the first model request, first words and answer
  warm      the same where an agent was booted ahead; warm bursts and memory too
  hot       turns of a session whose agent was kept
  burst     many new sessions at once
  load      conversations that go on side by side
  memory    what an idle agent holds
  idle      what a server without tasks holds
  overhead  tasks per second with an agent that does nothing, the median of five rounds, with and without
            stored sessions

The same is measured, in turn with it, with the CLI on a pipe (which nothing can be faster than) and with
"docker run" or "podman run" of the CLI (which many do today). Compare with those: figures of a machine that
has other work are good for nothing else.

With --soak it keeps the server busy for that long instead, and fails where something grows.

Ctrl-C ends it, cleans up, and gives what was measured until then.

Exit code 1 where something could not be measured, or the soak found growth. A target that is missed is no failure.`,
		Example: `  claude-runner bench
  claude-runner bench --backend docker --only cold,burst --samples 50
  claude-runner bench --json bench.json --markdown
  claude-runner bench --soak 1h --backend docker,local`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Backends, "backend", nil, "backends to measure (default: each one that works)")
	f.StringSliceVar(&o.Only, "only", bench.Parts, "parts to measure")
	f.IntVar(&o.Samples, "samples", 20, "turns of each sort, and four times as many hot ones")
	f.IntVar(&o.Burst, "burst", 20, "sessions of a burst")
	f.IntVar(&o.Conversations, "conversations", 8, "conversations of load, memory and soak")
	f.DurationVar(&o.Duration, "duration", 20*time.Second, "of load, and of each of the five rounds of overhead")
	f.IntVar(&o.Stored, "stored", 10_000, "sessions that overhead stores, to be measured with them and without; 0: only without")
	f.StringVar(&o.Image, "image", agent.DefaultProfile().Image, "image of the agent, where a backend uses one")
	f.StringVar(&o.CLI, "cli", "", "the CLI's program for the local backend and the pipe (default: claude in PATH)")
	f.StringVar(&o.DataDir, "data-dir", "", "folder for the run's data, which is removed (default: the system's for temporary files)")
	f.StringVar(&o.JSON, "json", "", "write all figures to this `file`; - is standard output, in place of the table")
	f.BoolVar(&o.Markdown, "markdown", false, "print the table as Markdown")
	f.DurationVar(&o.Soak, "soak", 0, "keep the server busy for so long, and look for growth")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p := bench.Program{Version: version, Kinds: kinds(), Serve: serveCommandLine, OpenBackends: openBackendsAlone, WithStore: withStore}
		if err := p.Check(o); err != nil {
			return &exitError{exitUsage, err}
		}
		err := p.Run(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		if errors.Is(err, bench.ErrInterrupted) {
			return &exitError{exitAborted, err}
		}
		return err
	}
	return cmd
}

// serveCommandLine is the command that serves a configuration. Tests have another.
var serveCommandLine = func(config string) (*exec.Cmd, error) {
	self, err := os.Executable()
	return exec.Command(self, "serve", "--config", config), err
}
