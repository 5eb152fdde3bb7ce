package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"claude-runner/agent"
)

const (
	resolveTimeout = 10 * time.Second
	maxAddresses   = 8 // of a name that are tried
	ownAddressTime = 10 * time.Second
)

// dial connects to a target that the rule allows. It resolves the name once,
// checks each address, and connects to one that it has checked.
func (g *Gateway) dial(ctx context.Context, c *config, rule agent.EgressRule, method string, t target, port int) (net.Conn, *denial, error) {
	addrs, no, err := g.addresses(ctx, c, rule, method, t, port)
	if no != nil || err != nil {
		return nil, no, err
	}
	var errs []error
	for _, addr := range addrs {
		conn, err := g.options.Dial(ctx, "tcp", netip.AddrPortFrom(addr, uint16(port)).String())
		if err == nil {
			return conn, nil, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, nil, errors.Join(errs...)
}

// addresses are those that may be called for the target.
func (g *Gateway) addresses(ctx context.Context, c *config, rule agent.EgressRule, method string, t target, port int) ([]netip.Addr, *denial, error) {
	if t.isHost() {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil, nil
	}
	if t.addr.IsValid() {
		return []netip.Addr{t.addr}, nil, nil // the rule names it
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	found, err := g.options.Resolver.LookupNetIP(ctx, "ip", t.host+".") // no search domain of this host's
	if err != nil {
		return nil, nil, fmt.Errorf("look up %s: %w", t.host, err)
	}
	var addrs []netip.Addr
	var no *denial
	for _, addr := range found {
		addr = addr.Unmap()
		if no2 := c.checkAddress(rule, method, t, port, addr, g.own.has(addr)); no2 != nil {
			no = no2
			continue
		}
		if len(addrs) < maxAddresses {
			addrs = append(addrs, addr)
		}
	}
	switch {
	case len(addrs) > 0:
		return addrs, nil, nil
	case no != nil:
		return nil, no, nil
	}
	return nil, nil, fmt.Errorf("look up %s: it has no address", t.host)
}

// ownAddresses knows the addresses of this host's interfaces.
type ownAddresses struct {
	mu   sync.Mutex
	read time.Time
	all  map[netip.Addr]bool
}

func (o *ownAddresses) has(addr netip.Addr) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.read) > ownAddressTime {
		o.read, o.all = time.Now(), map[netip.Addr]bool{}
		list, _ := net.InterfaceAddrs() // where that is not to be had, private addresses are refused all the same
		for _, a := range list {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				o.all[prefix.Addr().Unmap().WithZone("")] = true
			}
		}
	}
	return o.all[addr.WithZone("")]
}
