package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"claude-runner/config"
	"claude-runner/session"
)

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve agents over HTTP until SIGINT or SIGTERM",
		Long: `Serve agents over HTTP.

SIGTERM and SIGINT end it in order: no new tasks, running ones may finish within shutdown_grace.
SIGHUP, or a change of the configuration's file, takes over new agent profiles; a file with a mistake in
it is reported and changes nothing.`,
		Args: cobra.NoArgs,
	}
	load := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return serve(cmd.Context(), cfg, newLogger(cfg, cmd.ErrOrStderr()))
	}
	return cmd
}

// serve runs the program until ctx ends.
func serve(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // at once: one that comes early would end the process
	defer signal.Stop(hup)
	ln, err := net.Listen("tcp", cfg.Server.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w; choose another address with --listen or server.listen", err)
	}
	a, err := openApp(ctx, cfg, log)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	if err := a.checkExposure(ctx, ln.Addr()); err != nil {
		return errors.Join(err, a.Close(ctx), ln.Close())
	}
	for _, w := range cfg.Warnings {
		log.Warn(w.Error())
	}
	if _, err := modelAPIs(cfg)(); err != nil {
		log.Warn(err.Error())
	}
	watching, stopWatching := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	watchers.Go(func() { a.watchFile(watching) })
	watchers.Go(func() { a.watchSignal(watching, hup) })
	watchers.Go(func() { a.manager.AskBackends(watching) })
	log.Info("claude-runner is ready", "url", "http://"+ln.Addr().String(), "agents", strings.Join(agentNames(cfg), ","), "data_dir", cfg.DataDir, "version", version)
	err = a.Serve(ctx, ln)
	stopWatching()
	watchers.Wait()
	return errors.Join(err, a.Close(context.WithoutCancel(ctx)))
}

// watchFile takes over agents when the configuration's file changes.
func (a *app) watchFile(ctx context.Context) {
	if err := config.Watch(ctx, a.cfg, a.reload); err != nil {
		a.log.Warn("changes of the configuration's file are not noticed; send SIGHUP instead", "error", err)
	}
}

// watchSignal takes over agents at SIGHUP.
func (a *app) watchSignal(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			a.reload(a.cfg.Reload())
		}
	}
}

// reload takes over what of a new configuration can change while the program
// runs: its agents. After an error all stays as it was.
func (a *app) reload(cfg *config.Config, err error) {
	if err == nil {
		err = a.takeOver(cfg)
	}
	entry := session.AuditEntry{KeyName: "configuration", Action: "reload", Status: 200}
	if err != nil {
		entry.Status, entry.Code = 400, session.CodeInvalid
	}
	if err := a.manager.Audit(context.Background(), entry, true); err != nil {
		a.log.Error("the audit could not be written", "action", entry.Action, "error", err)
	}
	if err != nil {
		a.log.Error("the new configuration has a mistake; the agents stay as they were", "error", err)
		return
	}
	for _, setting := range config.RestartNeeded(a.cfg, cfg) {
		a.log.Warn("this change needs a restart to take effect", "setting", setting)
	}
	a.log.Info("agents reloaded", "agents", strings.Join(agentNames(cfg), ","))
}

func (a *app) takeOver(cfg *config.Config) error {
	profiles, err := session.LoadProfiles(cfg.DefaultAgent, cfg.Agents)
	if err != nil {
		return err
	}
	for name, p := range profiles.ByName {
		for _, b := range p.Backend {
			if _, ok := a.backends.Backend(b); !ok {
				return fmt.Errorf("agent %s: backend %s is new; restart the runner to use it", name, b)
			}
		}
	}
	a.manager.SetProfiles(profiles)
	return nil
}
