package session

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"claude-runner/agent"
	"claude-runner/backends"
)

// boot is the start of an agent: for a task, or ahead of one.
type boot struct {
	m         *Manager
	profile   Profile
	upstreams []agent.ModelAPI // where model calls go
	mask      masker
	name      string // the sandbox's
	folder    string // below sessions: a session's, or a warm agent's
	session   string // whose it is; "": nobody's yet
	task      string // for which it starts; "": ahead of one
	backend   string // the only one that will do; "": any of the profile's
	env       map[string]string
	resume    string // the agent's name of the conversation to go on with

	onPull   func(backends.PullProgress)
	letOut   func(context.Context, *lease) error // opens the way out
	warnings []string
}

// Labels of a sandbox, beside those that every backend sets.
const (
	labelSession = "claude-runner.session" // none: it was started before its session was known
	labelTask    = "claude-runner.task"
	labelAgent   = "claude-runner.agent"
)

// bases tells apart what agents are started with, whoever's task they get. It
// keeps each profile's last answer: for a profile that is the same value, finding
// that out takes a fraction of a digest.
type bases struct {
	mu   sync.Mutex
	last map[string]base // by the profile's name
}

// base is what agents are started with.
type base struct {
	profile  Profile
	upstream agent.ModelAPI
	key      string
}

func (c *bases) of(p Profile, upstreams []agent.ModelAPI) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.last[p.Name]
	if ok && known.upstream == upstreams[0] && reflect.DeepEqual(known.profile, p) {
		return known.key
	}
	known = base{profile: p, upstream: upstreams[0], key: baseKey(p, upstreams[0])}
	if c.last == nil {
		c.last = map[string]base{}
	}
	c.last[p.Name] = known
	return known.key
}

func baseKey(p Profile, first agent.ModelAPI) string {
	secrets := map[string]string{}
	for name, s := range p.Secrets {
		secrets[name] = s.Reveal()
	}
	return digest([]any{
		p.Profile, p.Env, secrets, p.ExtraArgs, p.Timeout, p.StallTimeout, p.Source,
		first.BaseURL, first.APIKey.Reveal(), first.AuthToken.Reveal(), first.OAuthToken.Reveal(),
	})
}

// envKey tells apart tasks' environments; "" is none.
func envKey(env map[string]string) string {
	if len(env) == 0 {
		return ""
	}
	return digest(env)
}

func digest(v any) string {
	data, err := json.Marshal(v)
	if err != nil { // can't be: all of it is plain data
		return uuid.NewString()
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// start starts the agent on the first backend that can.
func (b *boot) start(ctx context.Context) (*process, error) {
	var reasons []string
	var errs []error
	for _, name := range b.m.candidates(b.profile, b.backend) {
		on, ok := b.m.opts.Backends.Backend(name)
		if !ok {
			reasons = append(reasons, name+": is not in the configuration")
			continue
		}
		_, err := b.m.health.check(ctx, on)
		if err == nil {
			var p *process
			if p, err = b.startOn(ctx, on); err == nil {
				return p, nil
			}
			if !errors.Is(err, backends.ErrUnavailable) {
				return nil, err
			}
			b.m.health.forget(name)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		reasons, errs = append(reasons, name+": "+err.Error()), append(errs, err)
	}
	return nil, noBackend(reasons, errs)
}

// startOn starts the agent on a backend. The sandbox and its way out are made
// side by side: an agent calls nobody before it has its message.
func (b *boot) startOn(ctx context.Context, on backends.Backend) (*process, error) {
	capabilities := on.Capabilities()
	owner := capabilities.SandboxUser(b.m.opts.User)
	if err := b.m.folders.checkDisk(ctx, b.folder, b.profile); err != nil {
		return nil, err
	}
	if err := b.m.folders.ensure(ctx, b.folder, b.profile.Source, owner); err != nil {
		return nil, &Error{Code: CodeStorage, Message: "the session's folder could not be made: " + err.Error(), Err: err}
	}
	gateway, err := b.usesGateway(capabilities)
	if err != nil {
		return nil, err
	}
	network := b.networkOf(capabilities, gateway)
	launch := b.launch(capabilities, gateway)
	launch.ModelOnly = network == backends.NetworkNone && len(b.profile.Egress) == 0
	command, err := b.m.opts.Driver.Command(launch)
	if err != nil {
		return nil, err
	}
	mounts := b.m.folders.mounts(b.folder).all()
	var way *lease
	if gateway {
		way = newLease(b.name, launch.Run, owner)
		var helper []backends.Mount
		command.Argv, helper, err = b.m.opts.Helper(capabilities, HelperTask{
			Argv: command.Argv, Socket: way.socket.Sandbox, Control: true,
			Folders: []string{launch.Workspace.Sandbox, launch.Home.Sandbox, launch.Run.Sandbox},
		})
		if err != nil {
			return nil, &Error{Code: CodeNetwork, Message: err.Error(), Err: err}
		}
		mounts = append(mounts, helper...)
	}
	spec := backends.Spec{
		Name: b.name, Labels: b.labels(), Image: b.profile.Image, Pull: b.profile.Pull, OnPull: b.onPull,
		Argv: command.Argv, Env: command.Env, Dir: launch.Workspace.Sandbox,
		Mounts: mounts, User: owner, Limits: b.profile.sandboxLimits(), Hardening: b.profile.Hardening,
		Network: network,
	}
	if b.task != "" && b.profile.IdleTimeout == 0 {
		spec.Timeout = b.profile.Timeout + time.Minute // a net below the task's own
	}
	b.warnings = slices.Concat(b.warnings, capabilities.Unenforced(spec.Limits), spec.Hardening.Loosened())
	sandbox, err := b.inSandbox(ctx, on, spec, way)
	if err != nil {
		return nil, err
	}
	return b.newProcess(on.Name(), sandbox, launch, way), nil
}

// inSandbox starts the sandbox and opens its way out. Where either fails, there
// is neither.
func (b *boot) inSandbox(ctx context.Context, on backends.Backend, spec backends.Spec, way *lease) (backends.Sandbox, error) {
	opened := opening(ctx, way, b.letOut)
	sandbox, err := on.Start(ctx, spec)
	notOpened := <-opened
	if err == nil && notOpened == nil {
		return sandbox, nil
	}
	if err == nil {
		b.m.stopSandbox(on.Name(), sandbox, 0)
		err = notOpened
	} else {
		err = fmt.Errorf("start sandbox on backend %s: %w", on.Name(), err)
	}
	b.m.closeLease(way)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, err
}

func (b *boot) newProcess(on string, sandbox backends.Sandbox, launch agent.Launch, way *lease) *process {
	out := &meteredOutput{from: sandbox, limit: int64(b.profile.Limits.Output)}
	in := &controlledInput{to: sandbox.Stdin(), controlled: way != nil}
	return &process{
		backend: on, sandbox: sandbox, launch: launch, lease: way, in: in, output: out, mask: b.mask,
		base: b.m.bases.of(b.profile, b.upstreams), env: envKey(b.env), fresh: launch.Ahead, warnings: b.warnings,
		folder: b.folder, conv: b.m.opts.Driver.Open(launch, in, out),
	}
}

func (b *boot) labels() map[string]string {
	labels := map[string]string{labelAgent: b.profile.Name}
	if b.session != "" {
		labels[labelSession] = b.session
	}
	if b.task != "" {
		labels[labelTask] = b.task
	}
	return labels
}

// launch says how the agent starts, with paths as the sandbox sees them.
func (b *boot) launch(c backends.Capabilities, gateway bool) agent.Launch {
	folder := func(mount backends.Mount) agent.Folder {
		return agent.Folder{Host: mount.Source, Sandbox: c.Path(mount)}
	}
	env := maps.Clone(b.profile.Env)
	if env == nil {
		env = map[string]string{}
	}
	for name, secret := range b.profile.Secrets {
		env[name] = secret.Reveal()
	}
	maps.Copy(env, b.env)
	api := b.upstreams[0]
	api.BaseURL = sandboxURL(api.BaseURL)
	m := b.m.folders.mounts(b.folder)
	l := agent.Launch{
		Profile: b.profile.Profile, Template: b.profile.Source, Model: b.profile.Model,
		Resume: b.resume, NewID: uuid.NewString(), Ahead: b.task == "",
		Workspace: folder(m.workspace), Home: folder(m.home), Run: folder(m.run),
		Env: env, API: api,
	}
	if gateway {
		b.throughGateway(&l)
	}
	return l
}

// throughGateway makes l that of an agent that reaches the gateway alone. What
// the profile and the task set goes before what leads tools to it.
func (b *boot) throughGateway(l *agent.Launch) {
	l.API = gatewayAPI(b.upstreams[0], b.m.leaseToken(b.name))
	l.Profile.MaxBudgetUSD = 0 // the gateway holds it, before a call and not after
	env := proxyEnv(l.Profile.Network)
	maps.Copy(env, l.Env)
	l.Env = env
}

// usesGateway reports whether agents on a backend of capabilities c go through
// the gateway. Where they can't, the profile must let them use the network.
func (b *boot) usesGateway(c backends.Capabilities) (bool, error) {
	switch {
	case b.m.opts.Gateway == nil:
		return false, nil
	case c.Sockets:
		return true, nil
	case b.profile.Network == agent.NetworkOpen:
		b.warn("the model's credential is in the sandbox: this backend shares no sockets with it, which the gateway needs")
		return false, nil
	}
	return false, &Error{Code: CodeNetwork, Message: fmt.Sprintf(
		"sandboxes of this backend share no sockets with the runner, which network: %s needs; set agents.%s.network to open, or use another backend",
		b.profile.Network, b.profile.Name)}
}

// networkOf returns the sandbox's network. Where the backend can't hold what
// the profile asks for, the task says so.
func (b *boot) networkOf(c backends.Capabilities, gateway bool) backends.NetworkMode {
	if !gateway || b.profile.Network == agent.NetworkOpen {
		return backends.NetworkOpen
	}
	if slices.Contains(c.Networks, backends.NetworkNone) {
		return backends.NetworkNone
	}
	b.warn(fmt.Sprintf("network: %s is not enforced by this backend: sandboxes have this host's network", b.profile.Network))
	return backends.NetworkOpen
}

func (b *boot) warn(sentence string) { b.warnings = append(b.warnings, sentence) }

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
