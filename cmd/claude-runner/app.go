package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"time"

	"claude-runner/agent"
	"claude-runner/agent/claude"
	"claude-runner/agent/gateway"
	"claude-runner/api"
	"claude-runner/backends"
	"claude-runner/backends/docker"
	"claude-runner/backends/helper"
	"claude-runner/backends/local"
	"claude-runner/backends/podman"
	"claude-runner/config"
	"claude-runner/session"
	"claude-runner/session/metrics"
	"claude-runner/session/sqlite"
	"claude-runner/session/tracing"
	"claude-runner/session/webhook"
)

// kinds are the sorts of backend that the program knows.
func kinds() []backends.Kind {
	return []backends.Kind{docker.Kind(), podman.Kind(), local.Kind()}
}

// app is the whole program, wired: what serve runs, and what a test starts on
// port 0.
type app struct {
	cfg      *config.Config
	log      *slog.Logger
	lock     io.Closer
	store    *sqlite.Store
	backends *backends.Registry
	metrics  *metrics.Metrics
	tracer   *tracing.Tracer // nil where nobody asks for traces
	gateway  *gateway.Client
	manager  *session.Manager
	webhooks *webhook.Sender
	server   *api.Server
}

// openApp makes everything that cfg asks for. Close ends it.
func openApp(ctx context.Context, cfg *config.Config, log *slog.Logger) (*app, error) {
	return openAppWith(ctx, cfg, log, claude.Options{})
}

// openAppWith is openApp with another agent than the CLI that sandboxes have.
func openAppWith(ctx context.Context, cfg *config.Config, log *slog.Logger, cli claude.Options) (_ *app, err error) {
	a := &app{cfg: cfg, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close(ctx))
		}
	}()
	profiles, err := session.LoadProfiles(cfg.DefaultAgent, cfg.Agents)
	if err != nil {
		return nil, err
	}
	if a.lock, err = lockFolder(cfg.DataDir); err != nil {
		return nil, err
	}
	if a.store, err = sqlite.Open(ctx, filepath.Join(cfg.DataDir, "runner.db")); err != nil {
		return nil, err
	}
	instance, err := a.store.Instance(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the runner's instance: %w", err)
	}
	if a.backends, err = openBackends(cfg, instance, log); err != nil {
		return nil, err
	}
	observers, err := a.openObservers(ctx)
	if err != nil {
		return nil, err
	}
	if a.gateway, err = gateway.Start(ctx, gateway.Options{StateDir: filepath.Join(cfg.DataDir, "gateway"), Log: log}); err != nil {
		return nil, err
	}
	gatewayKey, err := a.store.Secret(ctx, "gateway")
	if err != nil {
		return nil, fmt.Errorf("read the gateway's key: %w", err)
	}
	program, err := helper.Install(filepath.Join(cfg.DataDir, "helper"))
	if err != nil {
		return nil, err
	}
	a.manager, err = session.Open(ctx, session.Options{
		Gateway: a.gateway, GatewayKey: gatewayKey, Helper: helperOf(program), Prices: prices(cfg),
		Store: a.store, DataDir: cfg.DataDir, Backends: a.backends,
		Driver: claude.New(cli), Profiles: profiles, ModelAPIs: modelAPIs(cfg),
		User: cfg.SandboxUser, Log: log, Observers: observers,
		EventAge: cfg.Events.MaxAge, EventsPerSession: cfg.Events.MaxPerSession,
		Concurrency: cfg.Limits.Concurrency, QueueDepth: cfg.Limits.QueueDepth, Boots: cfg.Limits.Boots, Memory: int64(cfg.Limits.Memory),
		PrivateWebhooks: cfg.Webhooks.AllowPrivate,
	})
	if err != nil {
		return nil, err
	}
	a.webhooks = webhook.Open(webhook.Options{
		Queue: a.store, Wake: a.manager.Undelivered(), AllowPrivate: cfg.Webhooks.AllowPrivate, Log: log,
		Profile: func(name string) agent.Webhook { return a.manager.Profiles().ByName[name].Webhook },
	})
	a.metrics.Watch(a.manager)
	a.server = api.New(api.Options{
		Manager: a.manager, APIKeys: cfg.Server.APIKeys, CORSOrigins: cfg.Server.CORSOrigins,
		BodyLimit: int(cfg.Server.BodyLimit), Log: log, Version: version,
		Metrics: a.metrics.Handler(),
	})
	return a, nil
}

// helperOf puts the program before a sandbox's command. On a backend that
// isolates nothing it confines the agent's files, where the kernel can.
func helperOf(p *helper.Program) func(backends.Capabilities, session.HelperTask) ([]string, []backends.Mount, error) {
	_, err := helper.LandlockSupported()
	confines := err == nil
	return func(c backends.Capabilities, t session.HelperTask) ([]string, []backends.Mount, error) {
		o := helper.Options{Socket: t.Socket, Control: t.Control}
		if confines {
			o.Confine = &helper.Confinement{ReadWrite: t.Folders}
		}
		return p.Command(c, t.Argv, o)
	}
}

// prices are the program's own and those that the configuration has over them.
func prices(cfg *config.Config) map[string]agent.Price {
	all := maps.Clone(agent.DefaultPrices)
	maps.Copy(all, cfg.Prices)
	return all
}

// openObservers makes what measures and traces tasks.
func (a *app) openObservers(ctx context.Context) ([]session.Observer, error) {
	a.metrics = metrics.New(version)
	if !tracing.Enabled() {
		return []session.Observer{a.metrics}, nil
	}
	var err error
	a.tracer, err = tracing.Open(ctx, version, a.log)
	if err != nil {
		return nil, err
	}
	return []session.Observer{a.metrics, a.tracer}, nil
}

// openBackends makes the configuration's backends.
func openBackends(cfg *config.Config, instance string, log *slog.Logger) (*backends.Registry, error) {
	registry := backends.NewRegistry(kinds()...)
	for name, b := range cfg.Backends {
		err := registry.Add(b.Kind, b.Config, backends.Options{
			Name: name, Instance: instance, StateDir: filepath.Join(cfg.DataDir, "backends", name),
			User: cfg.SandboxUser, Log: log.With("backend", name),
		})
		if err != nil {
			return nil, errors.Join(err, registry.Close())
		}
		if b, _ := registry.Backend(name); b.Capabilities().Warning != "" {
			log.Warn(b.Capabilities().Warning, "backend", name)
		}
	}
	return registry, nil
}

// openBackendsAlone opens the backends of a runner that has ended, without another,
// which would boot agents ahead.
func openBackendsAlone(ctx context.Context, cfg *config.Config) (registry *backends.Registry, err error) {
	err = withStore(ctx, cfg, func(store *sqlite.Store) error {
		instance, err := store.Instance(ctx)
		if err == nil {
			registry, err = openBackends(cfg, instance, slog.New(slog.DiscardHandler))
		}
		return err
	})
	return registry, err
}

// modelAPIs returns where model calls go and with which credentials: the
// configured ones, or those of this user's own login of the CLI.
func modelAPIs(cfg *config.Config) func() ([]agent.ModelAPI, error) {
	return func() ([]agent.ModelAPI, error) {
		apis := cfg.ModelAPI.APIs()
		if apis[0].HasCredentials() {
			return apis, nil
		}
		token, err := claude.HostCredentials()
		if err != nil {
			return nil, fmt.Errorf("no credentials for the model API: set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN, or model_api.api_key in the configuration (%w)", err)
		}
		apis[0].OAuthToken = token
		return apis, nil
	}
}

// Serve answers requests until ctx ends, then stops in order: no new work,
// running tasks may finish within the grace period.
func (a *app) Serve(ctx context.Context, ln net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	a.log.Info("shutting down: no new tasks; running ones may finish", "grace", a.cfg.ShutdownGrace)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.ShutdownGrace)
	defer cancel()
	err := a.manager.Close(grace)
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancelLast()
	return errors.Join(err, a.server.Shutdown(last), a.webhooks.Close(last), <-served)
}

// Close ends what Serve has not ended yet.
func (a *app) Close(ctx context.Context) error {
	var errs []error
	if a.manager != nil {
		errs = append(errs, a.manager.Close(ctx))
	}
	if a.tracer != nil {
		a.closeTracer(ctx)
	}
	if a.webhooks != nil {
		errs = append(errs, a.webhooks.Close(ctx))
	}
	if a.gateway != nil {
		errs = append(errs, a.gateway.Shutdown(ctx))
	}
	if a.backends != nil {
		errs = append(errs, a.backends.Close())
	}
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	if a.lock != nil {
		errs = append(errs, a.lock.Close())
	}
	return errors.Join(errs...)
}

// closeTracer sends the last traces. That they are lost is no failure of the
// program.
func (a *app) closeTracer(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := a.tracer.Close(ctx); err != nil {
		a.log.Warn("traces are lost", "error", err)
	}
	a.tracer = nil
}
