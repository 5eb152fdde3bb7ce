package config

import (
	"maps"
	"slices"
	"strings"

	"claude-runner/agent"
	"claude-runner/backends"
)

// minMemory is less than any agent needs to start: a number below it is one
// that lacks its unit.
const minMemory = 16 << 20

// modelAliases are names that the vendor lets stand for another model with
// time.
var modelAliases = []string{"default", "best", "sonnet", "opus", "haiku", "opusplan"}

var pullPolicies = []string{string(backends.PullMissing), string(backends.PullNever), string(backends.PullAlways)}

func (v *validator) agents() {
	if len(v.cfg.Agents) == 0 {
		v.errorf(path{"agents"}, "there is none: write at least one, such as {support: {template: ./agent}}")
		return
	}
	names := slices.Sorted(maps.Keys(v.cfg.Agents))
	p := path{"default_agent"}
	switch _, known := v.cfg.Agents[v.cfg.DefaultAgent]; {
	case v.cfg.DefaultAgent == "":
		v.errorf(p, "it is missing, and there is more than one agent: write %s", oneOf(names))
	case !known:
		v.errorf(p, "no agent is called %s: %s", v.settings.quote(p, v.cfg.DefaultAgent), suggest(v.cfg.DefaultAgent, names))
	}
	for _, name := range names {
		v.profile(path{"agents", name}, v.cfg.Agents[name])
	}
}

func (v *validator) profile(p path, a agent.Profile) {
	v.name(p, a.Name)
	v.template(p.child("template"), a.Template)
	v.model(p.child("model"), a.Model)
	v.backendsOf(p, a.Backend)
	v.choice(p.child("pull"), "pull policy", string(a.Pull), pullPolicies)
	v.choice(p.child("permission_mode"), "permission mode", a.PermissionMode, agent.PermissionModes)
	v.notNegative(p.child("max_turns"), float64(a.MaxTurns), "0 is no bound")
	v.notNegative(p.child("max_budget_usd"), a.MaxBudgetUSD, "0 is no bound")
	v.notNegative(p.child("max_session_budget_usd"), a.MaxSessionBudgetUSD, "0 is no bound")
	v.notNegative(p.child("max_daily_budget_usd"), a.MaxDailyBudgetUSD, "0 is no bound")
	v.network(p, a)
	v.notNegative(p.child("concurrency"), float64(a.Concurrency), "0 is no limit but the runner's own")
	v.atLeast(p.child("timeout"), a.Timeout, 1, "more than 0s, such as 10m")
	v.atLeast(p.child("stall_timeout"), a.StallTimeout, 1, "more than 0s, such as 2m")
	v.atLeast(p.child("idle_timeout"), a.IdleTimeout, 0, "0s to end the agent with its turn, or more")
	if a.KeepWarm < 0 || a.KeepWarm > maxWarm {
		v.errorf(p.child("keep_warm"), "want 0 to %d agents", maxWarm)
	}
	v.limits(p.child("limits"), a.Limits)
	if key, err := a.Hardening.Check(); err != nil {
		v.errorf(p.child("hardening").child(key), "%s", err)
	}
	v.environment(p, a)
	v.webhook(p.child("webhook"), a.Webhook)
	v.tools(p.child("tools"), a.Tools)
	v.extraArgs(p.child("extra_args"), a.ExtraArgs)
}

// maxWarm bounds keep_warm: each of them takes memory, which limits.memory
// bounds before this does.
const maxWarm = 1000

func (v *validator) template(p path, dir string) {
	if dir == "" {
		return
	}
	if _, err := agent.LoadTemplate(dir); err != nil {
		text := err.Error()
		if raw, ok := v.settings.at(p).(string); ok && hasReference(raw) {
			text = strings.ReplaceAll(text, dir, raw)
		}
		v.errorf(p, "%s", text)
	}
}

func (v *validator) model(p path, model string) {
	switch {
	case strings.TrimSpace(model) == "":
		v.errorf(p, "it is empty: write a full model id, such as %s", agent.DefaultProfile().Model)
	case slices.Contains(modelAliases, model):
		v.warnf(p, "%s is a name whose model changes with time: write a full id, such as %s", quote(model), agent.DefaultProfile().Model)
	}
}

// backendsOf checks that the backends of a profile are there.
func (v *validator) backendsOf(profile path, names []string) {
	p := profile.child("backend")
	known := slices.Sorted(maps.Keys(v.cfg.Backends))
	if len(known) == 0 {
		return // said already
	}
	if len(names) == 0 {
		v.errorf(p, "it is missing, and there is more than one backend: write those to try, in order, such as [%s]", strings.Join(known, ", "))
	}
	for i, name := range names {
		at := v.settings.element(p, i)
		switch _, ok := v.cfg.Backends[name]; {
		case !ok:
			v.errorf(at, "no backend is called %s: %s", v.settings.quote(at, name), suggest(name, known))
		case slices.Contains(names[:i], name):
			v.errorf(at, "%s is there twice: remove one of the two", v.settings.quote(at, name))
		}
	}
}

func (v *validator) choice(p path, what, value string, known []string) {
	if !slices.Contains(known, value) {
		v.errorf(p, "%s is no %s: %s", v.settings.quote(p, value), what, suggest(value, known))
	}
}

func (v *validator) notNegative(p path, value float64, zero string) {
	if value < 0 {
		v.errorf(p, "it is below zero: write a number above, %s", zero)
	}
}

func (v *validator) limits(p path, l agent.Limits) {
	const noLimit = "0 is no limit"
	if l.Memory > 0 && l.Memory < minMemory {
		v.errorf(p.child("memory"), "%s is less than any agent starts with: write a size with a unit, such as 512MiB",
			v.settings.quote(p.child("memory"), l.Memory.String()))
	}
	v.notNegative(p.child("cpus"), l.CPUs, noLimit)
	v.notNegative(p.child("pids"), float64(l.PIDs), noLimit)
	v.notNegative(p.child("open_files"), float64(l.OpenFiles), noLimit)
	v.atLeast(p.child("cpu_time"), l.CPUTime, 0, "0s for no limit, or more")
}

var networkModes = []string{string(agent.NetworkNone), string(agent.NetworkAllowlist), string(agent.NetworkOpen)}

// network checks what the agent's tools may reach.
func (v *validator) network(p path, a agent.Profile) {
	v.choice(p.child("network"), "network mode", string(a.Network), networkModes)
	for i, model := range a.Models {
		v.model(v.settings.element(p.child("models"), i), model)
	}
	for i, rule := range a.Egress {
		if err := rule.Validate(); err != nil {
			v.errorf(p.child("egress").element(i), "%s", err)
		}
	}
	if len(a.Egress) > 0 && a.Network != agent.NetworkAllowlist {
		v.warnf(p.child("egress"), "it is not used, because network is %s and not allowlist", a.Network)
	}
}

func (v *validator) environment(p path, a agent.Profile) {
	for name, value := range a.Env {
		v.variable(p.child("env").child(name), name, value)
	}
	for name, value := range a.Secrets {
		at := p.child("secrets").child(name)
		v.variable(at, name, value.Reveal())
		if _, twice := a.Env[name]; twice {
			v.errorf(at, "it is in env too: remove one of the two")
		}
	}
}

func (v *validator) variable(p path, name, value string) {
	if name == "" || strings.ContainsAny(name, "= \t") {
		v.errorf(p, "a variable's name has no space and no '=', and at least one letter")
	}
	if slices.Contains(v.opts.ReservedEnv, name) {
		v.errorf(p, "the runner sets this variable itself: remove it; where model calls go is set in model_api")
	}
	if strings.ContainsRune(value, 0) {
		v.errorf(p, "a variable's value has no NUL byte")
	}
}

func (v *validator) webhook(p path, w agent.Webhook) {
	if w == (agent.Webhook{}) {
		return
	}
	if err := w.CheckURL(v.cfg.Webhooks.AllowPrivate); err != nil {
		v.errorf(p.child("url"), "the URL %s", err)
	}
	if err := w.CheckSecret(); err != nil {
		v.errorf(p.child("secret"), "the secret %s", err)
	}
}

func (v *validator) tools(p path, tools []string) {
	for i, tool := range tools {
		at := v.settings.element(p, i)
		switch {
		case tool == "":
			v.errorf(at, "the tool's name is empty: remove it, or write one such as Bash; [] is no tool at all")
		case strings.ContainsAny(tool, ", \t()"):
			v.errorf(at, "%s is not the name of one tool: write a list of names, such as [Bash, Read]", v.settings.quote(at, tool))
		case slices.Contains(tools[:i], tool):
			v.errorf(at, "%s is there twice: remove one of the two", v.settings.quote(at, tool))
		}
	}
}

func (v *validator) extraArgs(p path, args []string) {
	for i, arg := range args {
		at := v.settings.element(p, i)
		name, _, _ := strings.Cut(arg, "=")
		if why, reserved := v.opts.ReservedArgs[name]; reserved {
			v.errorf(at, "%s can not be given: %s", name, why)
		}
		if strings.ContainsRune(arg, 0) {
			v.errorf(at, "an argument has no NUL byte")
		}
	}
}
