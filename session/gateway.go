package session

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"time"

	"claude-runner/agent"
	"claude-runner/backends"
)

// lease is what a sandbox's agent is let out by.
type lease struct {
	id     string       // the sandbox's name
	socket agent.Folder // the socket's path, on this host and in the sandbox
	owner  backends.User
}

func (a *attempt) warn(sentence string) { a.result.Warnings = append(a.result.Warnings, sentence) }

// gatewayAPI is the model API as an agent sees it that has no way to the real
// one: the gateway, with a token for a credential. Which credential it is says
// how the agent speaks to the API.
func gatewayAPI(upstream agent.ModelAPI, token agent.Secret) agent.ModelAPI {
	api := agent.ModelAPI{BaseURL: "http://" + backends.GatewayAddress}
	switch {
	case upstream.APIKey != "":
		api.APIKey = token
	case upstream.AuthToken != "":
		api.AuthToken = token
	default:
		api.OAuthToken = token
	}
	return api
}

// leaseToken is what the model calls of a sandbox carry. A later process makes
// the same.
func (m *Manager) leaseToken(id string) agent.Secret {
	mac := hmac.New(sha256.New, m.opts.GatewayKey)
	mac.Write([]byte(id))
	return agent.Secret("sandbox-" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)))
}

// proxyEnv leads tools to the gateway where the network is an allowlist.
func proxyEnv(mode agent.NetworkMode) map[string]string {
	if mode != agent.NetworkAllowlist {
		return map[string]string{}
	}
	const proxy, direct = "http://" + backends.GatewayAddress, "localhost,127.0.0.1,::1"
	return map[string]string{
		"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": direct,
		"http_proxy": proxy, "https_proxy": proxy, "no_proxy": direct,
	}
}

// newLease returns the lease of the sandbox of that name. Its socket is in the
// session's run folder, under a name of its own: a sandbox that ends and one
// that starts may both be there.
func newLease(name string, run agent.Folder, owner backends.User) *lease {
	socket := fmt.Sprintf("%.6x.sock", sha256.Sum256([]byte(name)))
	return &lease{id: name, owner: owner, socket: agent.Folder{
		Host: filepath.Join(run.Host, socket), Sandbox: path.Join(run.Sandbox, socket),
	}}
}

// move says that the run folder is elsewhere on this host.
func (l *lease) move(run string) { l.socket.Host = filepath.Join(run, filepath.Base(l.socket.Host)) }

// letOutAgain is letOut for a sandbox that was taken over; nil where it has
// another way out.
func (a *attempt) letOutAgain(ctx context.Context, c backends.Capabilities, name string, run agent.Folder) (*lease, error) {
	gateway, err := a.boot("").usesGateway(c)
	if err != nil || !gateway {
		return nil, err
	}
	a.refused, a.refusals, err = a.m.opts.Store.LastRefusal(ctx, a.job.task)
	if err != nil {
		return nil, storageError("read what the sandbox was refused", err)
	}
	l := newLease(name, run, c.SandboxUser(a.m.opts.User))
	return l, a.letOut(ctx, l)
}

// shut is the lease as the gateway is told of it, which lets nothing through yet.
func (m *Manager) shut(l *lease) agent.Lease {
	return agent.Lease{ID: l.id, Socket: l.socket.Host, Owner: l.owner, Token: m.leaseToken(l.id)}
}

// letOut opens the lease for this task. A budget that is spent already refuses.
func (a *attempt) letOut(ctx context.Context, l *lease) error {
	budgets, err := a.budgets(ctx)
	if err != nil {
		return err
	}
	task, profile, open := a.job.task, a.profile, a.m.shut(l)
	open.Session, open.Meter, open.Budgets = task.SessionID, task.ID, budgets
	open.Upstreams, open.Models, open.Prices = a.upstreams, append([]string{profile.Model}, profile.Models...), a.m.opts.Prices
	open.Network, open.Egress = profile.Network, profile.Egress
	err = a.m.opts.Gateway.Open(ctx, open)
	if err != nil && ctx.Err() == nil {
		return &Error{Code: CodeNetwork, Message: "the gateway does not let the sandbox out: " + err.Error(), Err: err}
	}
	return err
}

// opening opens a sandbox's way out, if it has one, beside what its caller does.
func opening(ctx context.Context, l *lease, open func(context.Context, *lease) error) <-chan error {
	opened := make(chan error, 1)
	if l == nil {
		opened <- nil
	} else {
		go func() { opened <- open(ctx, l) }()
	}
	return opened
}

const (
	meterTimeout = 2 * time.Second // for the last call to be counted
	meterPoll    = 5 * time.Millisecond
)

// totals asks what the task's model calls came to, once none is under way.
func (a *attempt) totals() (agent.Totals, error) {
	if t := a.counted; t != nil && t.Active == 0 {
		return *t, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), meterTimeout)
	defer cancel()
	for {
		t, err := a.m.opts.Gateway.Totals(ctx, a.job.task.ID)
		if err != nil || t.Active == 0 {
			return t, err
		}
		select {
		case <-ctx.Done():
			return t, nil
		case <-time.After(meterPoll):
		}
	}
}

// meter puts what the gateway counted in place of what the agent says of
// itself, and returns the error that ends the task where a budget did.
func (a *attempt) meter(err error) error {
	if !a.metered() {
		return err
	}
	t, terr := a.totals()
	if terr != nil {
		a.m.log.Error("the gateway does not say what a task cost", "task", a.job.task.ID, "error", terr)
		a.warn("the gateway did not say what the task cost: the cost is the agent's own figure")
		return err
	}
	own := a.result.CostUSD
	a.result.AgentCostUSD, a.result.CostUSD, a.result.Usage = &own, t.CostUSD, t.Usage
	for _, model := range slices.Sorted(maps.Keys(t.ByModel)) {
		if !t.ByModel[model].Guessed {
			continue
		}
		a.warn(fmt.Sprintf("model %s has no price: its calls are counted as the dearest model's; set prices.%s", model, model))
	}
	if t.Exceeded != nil && err != nil && !errors.Is(err, errAborted) && !errors.Is(err, errTimedOut) {
		return overBudget(*t.Exceeded)
	}
	return err
}

// metered reports whether the gateway counts what the task's agent spends, or may
// have counted what one spent whose sandbox is gone.
func (a *attempt) metered() bool {
	if a.proc == nil {
		return a.job.task.Sandbox != "" && a.m.opts.Gateway != nil
	}
	return a.proc.lease != nil
}

// forgetMeter drops what the gateway counted for a task whose end is written.
func (m *Manager) forgetMeter(taskID string) {
	if m.opts.Gateway == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
	defer cancel()
	if err := m.opts.Gateway.Forget(ctx, taskID); err != nil {
		m.log.Warn("the gateway keeps the counters of a task that has ended", "task", taskID, "error", err)
	}
}

// closeLease ends a sandbox's way out.
func (m *Manager) closeLease(l *lease) {
	if l == nil || m.opts.Gateway == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
	defer cancel()
	if err := m.opts.Gateway.Close(ctx, l.id); err != nil {
		m.log.Warn("a sandbox's way out could not be closed", "lease", l.id, "error", err)
	}
}

// closeLeases closes those of sandboxes that keep does not have: an earlier
// process left them behind.
func (m *Manager) closeLeases(ctx context.Context, keep map[string]Task) error {
	if m.opts.Gateway == nil {
		return nil
	}
	open, err := m.opts.Gateway.Leases(ctx)
	if err != nil {
		return fmt.Errorf("ask the gateway for what is open: %w", err)
	}
	for _, l := range open {
		if _, kept := keep[l.ID]; !kept {
			m.closeLease(&lease{id: l.ID})
		}
	}
	return nil
}

// refusalsAfter is how long a turn takes before it is asked what its sandbox is
// refused: in most there is nothing, and a shorter one is told all at its end.
const refusalsAfter = 100 * time.Millisecond

// watchRefusals tells what the task's sandbox is refused, until the returned
// function is called. It is called once the turn is over, and tells the last.
func (a *attempt) watchRefusals() (stop func()) {
	if a.proc.lease == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.job.ctx))
	done := make(chan struct{})
	timer := time.AfterFunc(refusalsAfter, func() {
		defer close(done)
		a.followRefusals(ctx)
	})
	return func() {
		cancel()
		if !timer.Stop() {
			<-done
		}
		a.lastRefusals()
	}
}

// followRefusals tells refusals as they come, until ctx ends.
func (a *attempt) followRefusals(ctx context.Context) {
	for ctx.Err() == nil {
		if err := a.tellRefusals(ctx); err != nil {
			if ctx.Err() == nil {
				a.m.log.Warn("what a sandbox is refused can't be told", "task", a.job.task.ID, "error", err)
			}
			return
		}
	}
}

// lastRefusals asks what the turn came to, and tells the refusals that are not
// yet told.
func (a *attempt) lastRefusals() {
	ctx, cancel := context.WithTimeout(context.Background(), meterTimeout)
	defer cancel()
	t, err := a.m.opts.Gateway.Totals(ctx, a.job.task.ID)
	if err != nil {
		return
	}
	a.counted = &t
	if t.Refused > a.refusals {
		_ = a.tellRefusals(ctx) // without it, the stream lacks what the gateway's log has
	}
}

// tellRefusals waits for refusals and tells those of this task.
func (a *attempt) tellRefusals(ctx context.Context) error {
	refused, err := a.m.opts.Gateway.Refusals(ctx, a.proc.lease.id, a.refused)
	if err != nil {
		return err
	}
	for _, r := range refused {
		a.refused = r.Seq
		if r.Meter != a.job.task.ID {
			continue
		}
		a.refusals++
		r.Meter = "" // the event has the task
		a.emit(Event{Refusal: &r, Event: agent.Event{Type: EventEgressRefused}})
	}
	return nil
}
