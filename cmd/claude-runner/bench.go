package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"claude-runner/agent"
)

// benchParts are what bench measures, in the order of its report.
var benchParts = []string{"cold", "warm", "hot", "burst", "load", "memory", "idle", "overhead"}

// benchOptions are the flags of bench.
type benchOptions struct {
	backends      []string // empty: all
	only          []string // of benchParts
	samples       int
	burst         int
	conversations int
	duration      time.Duration
	image         string
	cli           string
	dataDir       string
	json          string // a file, or "-"
	markdown      bool
	soak          time.Duration // 0: measure
}

func benchCommand() *cobra.Command {
	o := benchOptions{}
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
  overhead  tasks per second with an agent that does nothing

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
	f.StringSliceVar(&o.backends, "backend", nil, "backends to measure (default: each one that works)")
	f.StringSliceVar(&o.only, "only", benchParts, "parts to measure")
	f.IntVar(&o.samples, "samples", 20, "turns of each sort")
	f.IntVar(&o.burst, "burst", 20, "sessions of a burst")
	f.IntVar(&o.conversations, "conversations", 8, "conversations of load, memory and soak")
	f.DurationVar(&o.duration, "duration", 20*time.Second, "of load and overhead")
	f.StringVar(&o.image, "image", agent.DefaultProfile().Image, "image of the agent, where a backend uses one")
	f.StringVar(&o.cli, "cli", "", "the CLI's program for the local backend and the pipe (default: claude in PATH)")
	f.StringVar(&o.dataDir, "data-dir", "", "folder for the run's data, which is removed (default: the system's for temporary files)")
	f.StringVar(&o.json, "json", "", "write all figures to this `file`; - is standard output, in place of the table")
	f.BoolVar(&o.markdown, "markdown", false, "print the table as Markdown")
	f.DurationVar(&o.soak, "soak", 0, "keep the server busy for so long, and look for growth")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return &exitError{exitUsage, err}
		}
		return runBench(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// check reports the first flag that will not do.
func (o *benchOptions) check() error {
	known := kindNames()
	for _, name := range o.backends {
		if !slices.Contains(known, name) {
			return fmt.Errorf("--backend %s: there are %s", name, strings.Join(known, ", "))
		}
	}
	for _, part := range o.only {
		if !slices.Contains(benchParts, part) {
			return fmt.Errorf("--only %s: there are %s", part, strings.Join(benchParts, ", "))
		}
	}
	if len(o.only) == 0 {
		return fmt.Errorf("--only is empty: there are %s", strings.Join(benchParts, ", "))
	}
	for flag, n := range map[string]int{"samples": o.samples, "burst": o.burst, "conversations": o.conversations} {
		if n < 1 || n > 10_000 {
			return fmt.Errorf("--%s %d: want 1 to 10000", flag, n)
		}
	}
	if o.duration < time.Second {
		return fmt.Errorf("--duration %v: want 1s at least", o.duration)
	}
	if o.soak != 0 && o.soak < soakSamples*time.Second {
		return fmt.Errorf("--soak %v: want %v at least", o.soak, soakSamples*time.Second)
	}
	if o.cli != "" {
		if _, err := os.Stat(o.cli); err != nil {
			return fmt.Errorf("--cli: %w; %s", err, cliAdvice(""))
		}
	}
	return nil
}

// wants reports whether a part is to be measured.
func (o *benchOptions) wants(parts ...string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return slices.Contains(o.only, p) })
}

func kindNames() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.Name)
	}
	return names
}

// runBench measures, or soaks, and reports. Progress goes to progress.
func runBench(ctx context.Context, o benchOptions, out, progress io.Writer) error {
	l, err := openLab(o, progress)
	if err != nil {
		return err
	}
	var r *benchReport
	if o.soak > 0 {
		r, err = l.soak(ctx)
	} else {
		r, err = l.measure(ctx)
	}
	closed := l.close()
	if ctx.Err() != nil {
		err = errors.Join(errors.New("bench was interrupted; it has cleaned up behind itself"), closed)
		if r != nil {
			r.Interrupted = true
			err = errors.Join(err, r.write(o, out))
		}
		return &exitError{exitAborted, err}
	}
	if r == nil {
		return errors.Join(err, closed)
	}
	return errors.Join(err, closed, r.write(o, out), r.failure())
}

// measure runs the parts, backend by backend.
func (l *lab) measure(ctx context.Context) (*benchReport, error) {
	r := l.newReport(ctx)
	var errs []error
	for _, b := range r.Backends {
		if err := l.measureBackend(ctx, r, b); err != nil {
			if ctx.Err() != nil {
				r.judge()
				return r, err
			}
			l.say("%s: %v", b.Name, err)
			errs = append(errs, fmt.Errorf("backend %s: %w", b.Name, err))
		}
	}
	if l.o.wants("idle") {
		var err error
		if r.Idle, err = l.idleServer(ctx); err != nil {
			errs = append(errs, fmt.Errorf("idle server: %w", err))
		}
	}
	if l.o.wants("overhead") {
		var err error
		if r.Overhead, err = l.overhead(ctx); err != nil {
			errs = append(errs, fmt.Errorf("overhead: %w", err))
		}
	}
	r.judge()
	return r, errors.Join(errs...)
}

// measureBackend runs the parts of one backend.
func (l *lab) measureBackend(ctx context.Context, r *benchReport, b *benchBackend) error {
	for _, part := range []struct {
		wanted bool
		run    func(context.Context, *benchReport, *benchBackend) error
	}{
		{l.o.wants("cold", "warm", "hot"), l.turns},
		{l.o.wants("burst"), l.bursts},
		{l.o.wants("load"), l.load},
		{l.o.wants("memory"), l.agentMemory},
	} {
		if !part.wanted {
			continue
		}
		if err := part.run(ctx, r, b); err != nil {
			return err
		}
	}
	return nil
}
