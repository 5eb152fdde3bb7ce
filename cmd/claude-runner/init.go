package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"claude-runner/agent"
	"claude-runner/backends"
	"claude-runner/config"
)

func initCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "Make a commented configuration and an agent's template in DIR",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := args[0]
			if err := initFolder(dir); err != nil {
				return &exitError{exitUsage, err}
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), `made %s with config.yaml and the template of one agent in agent/

  agent/AGENTS.md             who the agent is: its system prompt

beside it, as you need them:

  agent/OUTPUT.md             the format of its answers, in words
  agent/output.schema.json    the same as a JSON Schema, which is checked
  agent/tools/                programs that the agent may call

next:
  cd %s
  claude-runner doctor
  claude-runner serve
`, dir, dir)
			return err
		},
	}
}

// initFolder makes the files, and changes none that is there.
func initFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	for _, name := range []string{"config.yaml", "agent"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("%s is there already; choose another folder", filepath.Join(dir, name))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	template, err := agent.LoadTemplate("")
	if err != nil {
		return err
	}
	owner := backends.User{UID: os.Getuid(), GID: os.Getgid()}
	if err := template.CopyTo(filepath.Join(dir, "agent"), owner); err != nil {
		return fmt.Errorf("make template: %w", err)
	}
	text, err := config.Example{Agent: "assistant", Template: "./agent"}.YAML()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), text, 0o644); err != nil {
		return fmt.Errorf("make configuration: %w", err)
	}
	return nil
}
