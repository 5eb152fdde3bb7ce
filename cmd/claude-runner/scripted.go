package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"claude-runner/agent/scripted"
)

func scriptedCommand() *cobra.Command {
	var script, listen string
	cmd := &cobra.Command{
		Use:   "scripted",
		Short: "Serve a scripted Messages API, for demos and tests without a key",
		Long: `Serve the Messages API with answers from a script instead of a model: the real agent and its real
tools run against it with no key and no cost. Set model_api.base_url to the address that it prints.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := scripted.Load(script)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			server := scripted.New(s, scripted.Options{})
			url, err := server.Listen(listen)
			if err != nil {
				return fmt.Errorf("%w; choose another address with --listen", err)
			}
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "scripted Messages API at %s\n", url); err != nil {
				return errors.Join(err, server.Close())
			}
			<-cmd.Context().Done()
			return server.Close()
		},
	}
	cmd.Flags().StringVar(&script, "script", "", "YAML script of the answers")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "address; sandboxes on an engine reach 0.0.0.0 only")
	if err := cmd.MarkFlagRequired("script"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}
