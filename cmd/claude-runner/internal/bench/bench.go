// Package bench measures the runner on a machine: what it gives, beside what the
// CLI gives without it. Its servers are processes of their own.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"claude-runner/backends"
	"claude-runner/cmd/claude-runner/internal/cli"
	"claude-runner/config"
	"claude-runner/session/sqlite"
)

// Parts are what can be measured, in the order of the report.
var Parts = []string{"cold", "warm", "hot", "burst", "load", "memory", "idle", "overhead"}

// Options say what is measured, and where the figures go.
type Options struct {
	Backends      []string // empty: all
	Only          []string // of Parts
	Samples       int
	Burst         int
	Conversations int
	Duration      time.Duration
	Stored        int // sessions; 0: none
	Image         string
	CLI           string // the program; "" looks for it in PATH
	DataDir       string // "": the system's folder for temporary files
	JSON          string // a file, or "-"
	Markdown      bool
	Soak          time.Duration // 0: measure
}

// Program is the program that is measured.
type Program struct {
	Version string
	Kinds   []backends.Kind
	// Serve is the command that serves a configuration, by its file.
	Serve func(config string) (*exec.Cmd, error)
	// OpenBackends opens the backends of a server that has ended.
	OpenBackends func(context.Context, *config.Config) (*backends.Registry, error)
	// WithStore opens the database of a server that has not begun.
	WithStore func(context.Context, *config.Config, func(*sqlite.Store) error) error
}

// ErrInterrupted is returned where the context ended before all was measured.
var ErrInterrupted = errors.New("bench was interrupted; it has cleaned up behind itself")

// Check reports the first option that will not do, by the name of its flag.
func (p Program) Check(o Options) error {
	var known []string
	for _, k := range p.Kinds {
		known = append(known, k.Name)
	}
	for _, name := range o.Backends {
		if !slices.Contains(known, name) {
			return fmt.Errorf("--backend %s: there are %s", name, strings.Join(known, ", "))
		}
	}
	for _, part := range o.Only {
		if !slices.Contains(Parts, part) {
			return fmt.Errorf("--only %s: there are %s", part, strings.Join(Parts, ", "))
		}
	}
	if len(o.Only) == 0 {
		return fmt.Errorf("--only is empty: there are %s", strings.Join(Parts, ", "))
	}
	for flag, n := range map[string]int{"samples": o.Samples, "burst": o.Burst, "conversations": o.Conversations} {
		if n < 1 || n > 10_000 {
			return fmt.Errorf("--%s %d: want 1 to 10000", flag, n)
		}
	}
	if o.Stored < 0 || o.Stored > 1_000_000 {
		return fmt.Errorf("--stored %d: want 0 to 1000000", o.Stored)
	}
	if o.Duration < time.Second {
		return fmt.Errorf("--duration %v: want 1s at least", o.Duration)
	}
	if o.Soak != 0 && o.Soak < soakSamples*time.Second {
		return fmt.Errorf("--soak %v: want %v at least", o.Soak, soakSamples*time.Second)
	}
	if o.CLI != "" {
		if _, err := os.Stat(o.CLI); err != nil {
			return fmt.Errorf("--cli: %w; %s", err, cli.Advice(""))
		}
	}
	return nil
}

// wants reports whether a part is to be measured.
func (o *Options) wants(parts ...string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return slices.Contains(o.Only, p) })
}

// Run measures, or soaks, and reports to out. How far it is goes to progress. Where
// ctx ends first, what was measured until then is reported.
func (p Program) Run(ctx context.Context, o Options, out, progress io.Writer) error {
	l, err := openLab(p, o, progress)
	if err != nil {
		return err
	}
	var r *report
	if o.Soak > 0 {
		r, err = l.soak(ctx)
	} else {
		r, err = l.measure(ctx)
	}
	closed := l.close()
	if ctx.Err() != nil {
		err = errors.Join(ErrInterrupted, closed)
		if r != nil {
			r.Interrupted = true
			err = errors.Join(err, r.write(o, out))
		}
		return err
	}
	if r == nil {
		return errors.Join(err, closed)
	}
	return errors.Join(err, closed, r.write(o, out), r.failure())
}

// measure runs the parts, backend by backend.
func (l *lab) measure(ctx context.Context) (*report, error) {
	r := l.newReport(ctx)
	var errs []error
	for _, b := range r.Backends {
		if err := l.measureBackend(ctx, b); err != nil {
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
		if err := l.overhead(ctx, r); err != nil {
			errs = append(errs, fmt.Errorf("overhead: %w", err))
		}
	}
	r.judge()
	return r, errors.Join(errs...)
}

// measureBackend runs the parts of one backend.
func (l *lab) measureBackend(ctx context.Context, b *backendResult) error {
	for _, part := range []struct {
		wanted bool
		run    func(context.Context, *backendResult) error
	}{
		{l.o.wants("cold", "warm", "hot"), l.turns},
		{l.o.wants("burst"), l.bursts},
		{l.o.wants("load"), l.load},
		{l.o.wants("memory"), l.agentMemory},
	} {
		if !part.wanted {
			continue
		}
		if err := part.run(ctx, b); err != nil {
			return err
		}
	}
	return nil
}
