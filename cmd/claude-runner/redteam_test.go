package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"claude-runner/agent"
	"claude-runner/agent/scripted"
	"claude-runner/backends"
	"claude-runner/backends/docker"
)

// An attack is what an agent's shell tries, told what to do by whoever wrote
// the text that the agent has read.
type attack struct {
	name string // as SECURITY.md has it
	// command is a shell command line, which may refer to the target. In it,
	// $gateway is the way out of the sandbox, as a proxy.
	command func(*target) string
	// won says what the attacker got out of it, or "".
	won func(*target, reply) string
	// held reports whether the attack is held off at a place. Where it is not,
	// SECURITY.md says so, and the attack is not tried where it would do harm.
	held func(place) bool

	network bool // its outcome may depend on the network: it is tried in each mode
	spoils  bool // it ends its sandbox, or spoils its session
	harm    bool // it spoils both, and what runs at the same time
}

// place is where an attack is tried: a backend, and the network that the
// attacker's profile asks for.
type place struct {
	backends.Capabilities
	network agent.NetworkMode
}

// target is what an attack is up against.
type target struct {
	*deployment
	place
	column string // of SECURITY.md's tables
	t      *testing.T
	chat   *chat // the attacker's session
	victim *chat // another session, with a secret in its workspace and a task that runs

	mark     string        // a number that is in no other process's arguments
	hostPort string        // somebody listens there on all of this host's addresses
	reached  *atomic.Int64 // connections to it
}

// allAttacksEnv, set to all, has every attack tried in every mode. Otherwise
// those that no network could change are tried in the default mode alone.
const allAttacksEnv = "REDTEAM"

// requireRuntimesEnv lists, with commas, the runtimes whose tests fail rather
// than skip where the engine does not have them.
const requireRuntimesEnv = "REQUIRE_RUNTIMES"

// gVisor is the runtime that README.md and SECURITY.md speak of.
const gVisor = "runsc"

var networkModes = []agent.NetworkMode{agent.NetworkAllowlist, agent.NetworkNone, agent.NetworkOpen}

// TestRedTeam has the real CLI try every attack on each backend, and those that
// its network could change in each of its modes.
func TestRedTeam(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(kind.Name, func(t *testing.T) { testRedTeam(t, kind.Name, "") })
	}
	t.Run("gVisor", func(t *testing.T) { testRedTeam(t, docker.Kind().Name, gVisor) })
}

// testRedTeam lets attacks loose that do no harm to others at the same time, as
// they mostly wait, then the rest one by one.
func testRedTeam(t *testing.T, kind, runtime string) {
	t.Parallel()
	g := newTarget(t, kind, runtime)
	all := os.Getenv(allAttacksEnv) == "all"
	g.besideVictim(t, func(g target) {
		t.Run("at once", func(t *testing.T) {
			for _, mode := range networkModes {
				if mode == agent.NetworkAllowlist || runtime == "" || all {
					t.Run(string(mode), func(t *testing.T) {
						t.Parallel()
						g.in(mode).tryAtOnce(t, all)
					})
				}
			}
		})
	})
	t.Run("one by one", func(t *testing.T) {
		g.in(agent.NetworkAllowlist).besideVictim(t, func(g target) {
			for _, a := range attacks {
				if a.harm {
					t.Run(a.name, func(t *testing.T) { g.try(t, a, g.program.chat(t, "attacker")) })
				}
			}
		})
	})
}

// besideVictim has attacks tried while another session's task runs, which must
// not suffer from them. It can run for no longer than the agent's timeout.
func (g target) besideVictim(t *testing.T, try func(target)) {
	g.victim = g.program.chat(t, "victim")
	g.victim.ask("run: echo " + victimSecret + " > secret; echo done")
	held := g.victim.held("red-team-victim")
	try(g)
	g.victim.letGo()
	if r := <-held; r.Text != "held" {
		t.Errorf("the victim's task: %s", r.body)
	}
}

// in is the target of an attacker who has a network of that mode.
func (g target) in(mode agent.NetworkMode) target {
	g.network = mode
	return g
}

// tryAtOnce tries what may be tried while others are. One agent tries what it
// can try without harm to itself.
func (g target) tryAtOnce(t *testing.T, all bool) {
	attacker := "attacker"
	if g.network != agent.NetworkAllowlist {
		attacker += "-" + string(g.network)
	}
	stays := g.program.chat(t, attacker+"-stays")
	for _, a := range attacks {
		if a.harm || !a.network && !all && g.network != agent.NetworkAllowlist {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			if !a.spoils {
				g.try(t, a, stays.as(t))
				return
			}
			t.Parallel()
			g.try(t, a, g.program.chat(t, attacker))
		})
	}
}

// try has the attacker's agent run an attack, and holds what SECURITY.md says of
// it.
func (g target) try(t *testing.T, a attack, c *chat) {
	holds := a.held(g.place)
	where := fmt.Sprintf("%s with network: %s", g.column, g.network)
	if said := securityTable(t)[a.name].at(g.column, g.network); said != verdict(holds) && (!a.harm || said != byHost) {
		t.Errorf("SECURITY.md says %q of %s on %s, want %q", said, a.name, where, verdict(holds))
	}
	if !holds && a.harm {
		return // this host would suffer it
	}
	g.t, g.chat, g.mark = t, c, unique()
	g.hostPort, g.reached = listenEverywhere(t)
	// The CLI's shell has a grep of its own, which leaves files out.
	r := g.chat.send("run: unset -f grep; gateway=${http_proxy:-$ANTHROPIC_BASE_URL}\n" + a.command(&g))
	if r.Code != "" && r.Code != "out_of_memory" {
		t.Logf("the attacker's task: %s", r.body)
	}
	switch won := a.won(&g, r); {
	case won != "" && holds:
		t.Errorf("not held: %s\n%s", won, r.body)
	case won == "" && !holds:
		t.Logf("held here, though not in general: %s", r.Text)
	}
}

// newTarget is a server with a file that no attacker may touch.
func newTarget(t *testing.T, kind, runtime string) target {
	t.Helper()
	g := target{t: t, column: kind}
	o := deployOptions{
		// Whoever is let out of a sandbox reaches it.
		modelAddress: ":0", model: scripted.Options{RequireKey: modelKey},
		env: []string{"CLAUDE_RUNNER_LIMITS__CONCURRENCY", "12"},
	}
	if runtime != "" {
		g.column = "gVisor"
		requireRuntime(t, runtime)
		o.env = append(o.env, "CLAUDE_RUNNER_BACKENDS__DOCKER__RUNTIME", runtime)
	}
	g.deployment = deployWith(t, kind, o)
	g.Capabilities = g.capabilities
	if err := os.WriteFile(filepath.Join(g.cfg.DataDir, "bystander"), []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	return g
}

// requireRuntime holds that the engine has a runtime whose sandboxes reach the
// gateway.
func requireRuntime(t *testing.T, runtime string) {
	t.Helper()
	b, err := docker.New(docker.Config{Runtime: runtime}, backends.Options{Name: runtime, StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	status, err := b.Check(t.Context())
	if err == nil && !b.Capabilities().Sockets {
		err = fmt.Errorf("its sandboxes do not reach the gateway: %s", strings.Join(status.Notes, "; "))
	}
	switch {
	case err == nil:
	case slices.Contains(strings.Split(os.Getenv(requireRuntimesEnv), ","), runtime):
		t.Fatalf("%s names %s, but: %v", requireRuntimesEnv, runtime, err)
	default:
		t.Skipf("%s is not to be had here: %v", runtime, err)
	}
}

// listenEverywhere listens on all of this host's addresses, and counts who
// connects.
func listenEverywhere(t *testing.T) (port string, reached *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	reached = &atomic.Int64{}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-accepted })
	return portOf(ln.Addr().String()), reached
}

var lastNumber = regexp.MustCompile(`\d+$`)

func portOf(url string) string { return lastNumber.FindString(url) }

// hostAddress is an address of this host that is not its loopback, or the
// loopback's where there is none.
func hostAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return ip.IP.String()
		}
	}
	return "127.0.0.1"
}
