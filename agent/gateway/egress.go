package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"claude-runner/agent"
	"claude-runner/backends"
)

// target is where a request of the forward proxy wants to go.
type target struct {
	host string     // a name in lower case, or an address
	addr netip.Addr // where the host is one
	port int
}

func (t target) String() string {
	if t.addr.Is6() {
		return "[" + t.host + "]:" + strconv.Itoa(t.port)
	}
	return t.host + ":" + strconv.Itoa(t.port)
}

// isHost says whether the target is the runner's host by its name in sandboxes.
func (t target) isHost() bool { return t.host == backends.HostAlias }

// readTarget reads host and port. What some resolvers take for an address
// though it does not look like one (127.1, 0x7f.1, 2130706433, ::ffff:127.0.0.1)
// is none here.
func readTarget(authority string, defaultPort int) (target, error) {
	u := url.URL{Host: authority}
	t := target{host: strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), port: defaultPort}
	if text := u.Port(); text != "" {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return t, fmt.Errorf("%q has no port from 1 to 65535", authority)
		}
		t.port = int(port)
	} else if defaultPort == 0 {
		return t, fmt.Errorf("%q names no port", authority)
	}
	if addr, err := netip.ParseAddr(t.host); err == nil {
		if addr.Is4In6() || addr.Zone() != "" {
			return t, fmt.Errorf("%q is no plain address: write it as %s", t.host, addr.WithZone("").Unmap())
		}
		t.addr, t.host = addr, addr.String()
		return t, nil
	}
	if !agent.IsHostName(t.host) || strings.Contains(authority, "[") {
		return t, fmt.Errorf("%q is neither a host's name nor a plain address", t.host)
	}
	return t, nil
}

// denial is why a request is refused, and the rule that would allow it.
type denial struct {
	reason string
	rule   string // empty: none would
}

// decide returns the rule that allows the request, and the port to go on to.
func (c *config) decide(method string, t target) (agent.EgressRule, int, *denial) {
	switch c.Network {
	case agent.NetworkAllowlist:
	case agent.NetworkOpen:
		return agent.EgressRule{}, 0, &denial{reason: "this agent's network is open: call the host without the proxy"}
	default:
		return agent.EgressRule{}, 0, &denial{reason: "this agent has no network (network: none)"}
	}
	var named []agent.EgressRule
	for _, rule := range c.Egress {
		if !rule.Matches(t.host) {
			continue
		}
		port := t.port
		if rule.TLS && method != "CONNECT" && port == 80 {
			port = 443
		}
		if rule.AllowsPort(port) && rule.AllowsMethod(method) {
			return rule, port, nil
		}
		named = append(named, rule)
	}
	want := agent.EgressRule{Host: t.host, Ports: []int{t.port}}
	if len(named) == 0 && (t.host == "localhost" || strings.HasSuffix(t.host, ".localhost")) {
		want.Host = backends.HostAlias
		return agent.EgressRule{}, 0, &denial{t.host + " is the sandbox itself: the runner's host is called " + backends.HostAlias, want.String()}
	}
	if len(named) == 0 && t.addr.IsValid() && errors.Is(agent.CheckAddress(t.addr, true), agent.ErrSpecialAddress) {
		return agent.EgressRule{}, 0, &denial{reason: "no egress rule names " + t.host + ", which is link-local, multicast, reserved, or a cloud's metadata"}
	}
	if len(named) == 0 {
		return agent.EgressRule{}, 0, &denial{"no egress rule names " + t.host, want.String()}
	}
	for _, rule := range named {
		if rule.AllowsPort(t.port) {
			want.Methods = append(slices.Clone(rule.Methods), method)
			return agent.EgressRule{}, 0, &denial{fmt.Sprintf("the egress rule for %s does not allow %s", rule.Host, method), want.String()}
		}
	}
	return agent.EgressRule{}, 0, &denial{fmt.Sprintf("the egress rule for %s does not allow port %d", named[0].Host, t.port), want.String()}
}

// allowsTunnel reports whether a tunnel to the target may stay.
func (c *config) allowsTunnel(t target) bool {
	_, _, no := c.decide("CONNECT", t)
	return no == nil
}

// checkAddress says why a name that the rule allows may not stand for the
// address. An address that a rule names is what that rule allows.
func (c *config) checkAddress(rule agent.EgressRule, method string, t target, port int, addr netip.Addr, own bool) *denial {
	for _, r := range c.Egress {
		if r.MatchesAddress(addr) && r.AllowsPort(port) && r.AllowsMethod(method) {
			return nil
		}
	}
	if own || addr.IsLoopback() {
		want := agent.EgressRule{Host: backends.HostAlias, Ports: []int{port}}
		return &denial{fmt.Sprintf("%s is at %s, an address of the runner's own host, which is called by the name %s", t.host, addr, backends.HostAlias), want.String()}
	}
	switch err := agent.CheckAddress(addr, rule.Private); {
	case err == nil:
		return nil
	case errors.Is(err, agent.ErrPrivateAddress):
		want := agent.EgressRule{Host: t.host, Ports: []int{port}, Private: true}
		return &denial{fmt.Sprintf("%s is at %s, an address of a private network", t.host, addr), want.String()}
	default:
		return &denial{reason: fmt.Sprintf("%s is at %s, which is no server's address: link-local, multicast, reserved, or a cloud's metadata", t.host, addr)}
	}
}
