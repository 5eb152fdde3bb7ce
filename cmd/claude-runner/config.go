package main

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"claude-runner/agent/claude"
	"claude-runner/backends/local"
	"claude-runner/config"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check or show the configuration",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(configCheckCommand(), configShowCommand())
	return cmd
}

func configCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Report every mistake in the configuration; exit code 2 where there is one",
		Args:  cobra.NoArgs,
	}
	load := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		for _, w := range cfg.Warnings {
			fmt.Fprintln(out, "warning:", w)
		}
		_, err = fmt.Fprintf(out, "the configuration is valid: %s, %s\n", english.Plural(len(cfg.Agents), "agent", ""), english.Plural(len(cfg.Backends), "backend", ""))
		return err
	}
	return cmd
}

func configShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the whole configuration as it is in effect, secrets masked",
		Args:  cobra.NoArgs,
	}
	load := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return cfg.Show(cmd.OutOrStdout())
	}
	return cmd
}

// configFlags gives cmd the flags of the configuration, and returns what reads
// it once they are parsed.
func configFlags(cmd *cobra.Command) func() (*config.Config, error) {
	config.AddFlags(cmd.Flags())
	return func() (*config.Config, error) {
		cfg, err := config.Load(config.Options{
			Flags: cmd.Flags(), Kinds: kinds(),
			Unsandboxed:    []string{local.Kind().Name},
			OtherVariables: []string{envServer, envKey},
			ReservedArgs:   claude.ReservedArgs,
			ReservedEnv:    claude.ReservedEnv(),
		})
		if err != nil {
			return nil, &exitError{exitUsage, err}
		}
		return cfg, nil
	}
}

func agentNames(cfg *config.Config) []string { return slices.Sorted(maps.Keys(cfg.Agents)) }

func backendNames(cfg *config.Config) []string { return slices.Sorted(maps.Keys(cfg.Backends)) }

// newLogger makes the logger that cfg asks for.
func newLogger(cfg *config.Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Log.Level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
