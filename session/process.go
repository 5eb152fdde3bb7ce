package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"claude-runner/agent"
	"claude-runner/backends"
)

// process is an agent in its sandbox.
type process struct {
	backend string
	sandbox backends.Sandbox
	conv    agent.Conversation
	key     string      // what it was started with; a task of another key can't use it
	idle    *time.Timer // ends it, while it is kept
	mask    masker
	lease   *lease // its way out; nil without a gateway
	output  *meteredOutput
	looked  time.Time // when its session's disk was last looked at; for the task that has it
}

// Labels of a sandbox, beside those that every backend sets.
const (
	labelSession = "claude-runner.session"
	labelTask    = "claude-runner.task"
	labelAgent   = "claude-runner.agent"
)

// stderrShown is how much of the agent's standard error a message quotes.
const stderrShown = 2000

// key tells apart what an agent is started with: only a task with the same one
// may go to an agent that runs already.
func (a *attempt) key() string {
	p, first := a.profile.Profile, a.upstreams[0]
	secrets := map[string]string{}
	for name, s := range p.Secrets {
		secrets[name] = s.Reveal()
	}
	data, err := json.Marshal([]any{
		p, p.Env, secrets, p.ExtraArgs, p.Timeout, p.StallTimeout, a.profile.Source,
		a.job.task.Request.Backend, a.job.task.Request.Env,
		first.BaseURL, first.APIKey.Reveal(), first.AuthToken.Reveal(), first.OAuthToken.Reveal(),
	})
	if err != nil { // can't be: all of it is plain data
		return uuid.NewString()
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// boot starts the session's agent on the first backend that can.
func (a *attempt) boot(ctx context.Context, resume string) (*process, error) {
	var reasons []string
	var errs []error
	for _, name := range a.m.candidates(a.profile, a.job.task.Request.Backend) {
		b, ok := a.m.opts.Backends.Backend(name)
		if !ok {
			reasons = append(reasons, name+": is not in the configuration")
			continue
		}
		_, err := a.m.health.check(ctx, b)
		if err == nil {
			var p *process
			if p, err = a.start(ctx, b, resume); err == nil {
				return p, nil
			}
			if !errors.Is(err, backends.ErrUnavailable) {
				return nil, err
			}
			a.m.health.forget(name)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		reasons, errs = append(reasons, name+": "+err.Error()), append(errs, err)
	}
	return nil, noBackend(reasons, errs)
}

// start starts the session's agent on a backend.
func (a *attempt) start(ctx context.Context, b backends.Backend, resume string) (*process, error) {
	task := a.job.task
	capabilities := b.Capabilities()
	owner := a.m.ownerOn(capabilities)
	if err := a.m.folders.checkDisk(ctx, task.SessionID, a.profile); err != nil {
		return nil, err
	}
	if err := a.m.folders.ensure(ctx, task.SessionID, a.profile.Source, owner); err != nil {
		return nil, &Error{Code: CodeStorage, Message: "the session's folder could not be made: " + err.Error(), Err: err}
	}
	gateway, err := a.usesGateway(capabilities)
	if err != nil {
		return nil, err
	}
	m := a.m.folders.mounts(task.SessionID)
	name := "task-" + task.ID
	launch := a.launch(capabilities, m, resume)
	if gateway {
		a.throughGateway(&launch, name)
	}
	command, err := a.m.opts.Driver.Command(launch)
	if err != nil {
		return nil, err
	}
	var way *lease
	mounts := m.all()
	if gateway {
		way = newLease(name, launch.Run, owner)
		if err := a.letOut(ctx, way); err != nil {
			return nil, err
		}
		var helper []backends.Mount
		command.Argv, helper, err = a.m.opts.Helper(capabilities, HelperTask{
			Argv: command.Argv, Socket: way.socket.Sandbox,
			Folders: []string{launch.Workspace.Sandbox, launch.Home.Sandbox, launch.Run.Sandbox},
		})
		if err != nil {
			a.m.closeLease(way)
			return nil, &Error{Code: CodeNetwork, Message: err.Error(), Err: err}
		}
		mounts = append(mounts, helper...)
	}
	spec := backends.Spec{
		Name: name,
		Labels: map[string]string{
			labelSession: task.SessionID, labelTask: task.ID, labelAgent: task.Agent,
		},
		Image: a.profile.Image, Pull: a.profile.Pull, OnPull: a.pulling,
		Argv: command.Argv, Env: command.Env, Dir: launch.Workspace.Sandbox,
		Mounts: mounts, User: owner, Limits: a.profile.sandboxLimits(), Hardening: a.profile.Hardening,
		Network: a.networkOf(capabilities, gateway),
	}
	if a.profile.IdleTimeout == 0 {
		spec.Timeout = a.profile.Timeout + time.Minute // a net below the task's own
	}
	a.result.Warnings = slices.Concat(a.result.Warnings, capabilities.Unenforced(spec.Limits), spec.Hardening.Loosened())
	sandbox, err := b.Start(ctx, spec)
	if err != nil {
		a.m.closeLease(way)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("start sandbox on backend %s: %w", b.Name(), err)
	}
	return a.newProcess(b.Name(), sandbox, launch, way), nil
}

func (a *attempt) newProcess(backend string, sandbox backends.Sandbox, launch agent.Launch, way *lease) *process {
	out := &meteredOutput{from: sandbox, limit: int64(a.profile.Limits.Output)}
	return &process{
		backend: backend, sandbox: sandbox, key: a.key(), mask: a.mask, lease: way, output: out,
		conv: a.m.opts.Driver.Open(launch, sandbox.Stdin(), out),
	}
}

// ownerOn is who sandboxes are on a backend, and who owns their folders.
func (m *Manager) ownerOn(c backends.Capabilities) backends.User {
	switch {
	case os.Geteuid() != 0:
		return backends.User{UID: os.Geteuid(), GID: os.Getegid()}
	case c.FixedUser != nil:
		return *c.FixedUser
	}
	return m.opts.User
}

// launch says how the agent starts, with paths as the sandbox sees them.
func (a *attempt) launch(c backends.Capabilities, m mounts, resume string) agent.Launch {
	folder := func(mount backends.Mount) agent.Folder {
		return agent.Folder{Host: mount.Source, Sandbox: c.Path(mount)}
	}
	env := maps.Clone(a.profile.Env)
	if env == nil {
		env = map[string]string{}
	}
	for name, secret := range a.profile.Secrets {
		env[name] = secret.Reveal()
	}
	maps.Copy(env, a.job.task.Request.Env)
	api := a.upstreams[0]
	api.BaseURL = sandboxURL(api.BaseURL)
	return agent.Launch{
		Profile: a.profile.Profile, Template: a.profile.Source, Model: a.profile.Model,
		Resume: resume, NewID: uuid.NewString(),
		Workspace: folder(m.workspace), Home: folder(m.home), Run: folder(m.run),
		Env: env, API: api,
	}
}

// throughGateway makes l that of an agent that reaches the gateway alone. What
// the profile and the task set goes before what leads tools to it.
func (a *attempt) throughGateway(l *agent.Launch, name string) {
	l.API = gatewayAPI(a.upstreams[0], a.m.leaseToken(name))
	l.Profile.MaxBudgetUSD = 0 // the gateway holds it, before a call and not after
	env := proxyEnv(l.Profile.Network)
	maps.Copy(env, l.Env)
	l.Env = env
}

// sandboxURL returns base as a sandbox reaches it: a server on the runner's
// own loopback is there under another name.
func sandboxURL(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	host := u.Hostname()
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return base
	}
	port := u.Port()
	u.Host = backends.HostAlias
	if port != "" {
		u.Host = net.JoinHostPort(backends.HostAlias, port)
	}
	return u.String()
}

func (a *attempt) pulling(p backends.PullProgress) {
	a.emit(Event{Event: a.mask.event(agent.Event{Type: agent.EventStatus, Status: &agent.Status{
		Phase: "pull", Message: p.Image + ": " + p.Status, Current: p.Current, Total: p.Total,
	}})})
}

// sandboxLimits returns the profile's limits as a backend wants them.
func (p Profile) sandboxLimits() backends.Limits {
	l := backends.Limits{
		Memory: int64(p.Limits.Memory), CPUs: p.Limits.CPUs, PIDs: p.Limits.PIDs,
		OpenFiles: p.Limits.OpenFiles, CPUTime: p.Limits.CPUTime,
	}
	if p.Limits.Tmp > 0 {
		l.Tmpfs = map[string]int64{"/tmp": int64(p.Limits.Tmp)}
	}
	return l
}

// stderr returns the end of the agent's standard error as part of a sentence.
func (p *process) stderr() string {
	data, err := io.ReadAll(p.sandbox.Stderr())
	data = bytes.TrimSpace(data)
	if err != nil || len(data) == 0 {
		return ""
	}
	text := p.mask.apply(strings.ToValidUTF8(string(data), "?")) // before the cut: half a secret is not recognised
	return "; its standard error ends: " + text[max(0, len(text)-stderrShown):]
}

// stop lets the agent write down its memory, and ends all that is in its
// sandbox.
func (m *Manager) stop(p *process) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	if err := p.conv.Close(ctx); err != nil {
		m.log.Debug("agent did not end by itself", "backend", p.backend, "error", err)
	}
	cancel()
	m.stopSandbox(p.backend, p.sandbox, stopGrace)
	m.closeLease(p.lease)
}

// stopSandbox ends a sandbox for certain. Where its engine does not let it, it
// goes on trying behind the caller's back; what it has not managed when the
// Manager closes, the next Open does.
func (m *Manager) stopSandbox(backend string, s backends.Sandbox, grace time.Duration) {
	err := stopOnce(s, grace)
	if err == nil {
		return
	}
	log := m.log.With("backend", backend, "sandbox", s.Handle().ID)
	log.Error("sandbox could not be stopped; trying again until it is gone", "error", err)
	m.tasks.Go(func() {
		for pause := firstStopRetry; ; pause = min(2*pause, lastStopRetry) {
			select {
			case <-time.After(pause):
			case <-m.root.Done():
				return
			}
			if err := stopOnce(s, grace); err == nil {
				log.Info("sandbox stopped at last")
				return
			}
		}
	})
}

func stopOnce(s backends.Sandbox, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
	defer cancel()
	return s.Stop(ctx, grace)
}

const (
	closeTimeout = time.Second            // for an agent to end when its input has
	stopGrace    = 500 * time.Millisecond // from asking to killing

	firstStopRetry = time.Second
	lastStopRetry  = 30 * time.Second
)

// takeHot returns the session's agent that still runs, if it was started with
// the same key and lives; another is ended.
func (m *Manager) takeHot(l *live, key string) *process {
	p := m.unkeep(l)
	if p == nil {
		return nil
	}
	if p.key == key && p.conv.Alive() {
		return p
	}
	m.stop(p)
	return nil
}

// keepHot keeps the agent for the session's next message, for a while. It is
// false where the runner is closing.
func (m *Manager) keepHot(l *live, p *process, idle time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return false
	}
	l.hot = p
	p.idle = time.AfterFunc(idle, func() { m.expire(l, p) })
	return true
}

// expire ends an agent that no message came for.
func (m *Manager) expire(l *live, p *process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.hot != p || m.closing { // another took it: a task, or Close
		return
	}
	l.hot = nil
	l.users++
	m.tasks.Go(func() {
		m.stop(p)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.letGo(l)
	})
}

// unkeep takes the kept agent out of the session; nil where there is none.
func (m *Manager) unkeep(l *live) *process {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := l.hot
	if p != nil {
		l.hot = nil
		p.idle.Stop()
	}
	return p
}

// closeHotAgents ends every kept agent.
func (m *Manager) closeHotAgents() {
	m.mu.Lock()
	kept := slices.Collect(maps.Values(m.live))
	m.mu.Unlock()
	var g errgroup.Group
	for _, l := range kept {
		g.Go(func() error { m.closeHot(l); return nil })
	}
	_ = g.Wait() // the functions return nil
}

// closeHot ends the session's kept agent, if there is one.
func (m *Manager) closeHot(l *live) {
	if p := m.unkeep(l); p != nil {
		m.stop(p)
	}
}
