package agent

import (
	"errors"
	"net/netip"
	"slices"
)

// Why the runner does not call an address.
var (
	ErrPrivateAddress = errors.New("an address of this host or of a private network, which webhooks.allow_private: true would allow")
	ErrSpecialAddress = errors.New("an address that is no server's: link-local, multicast, reserved, or a cloud's metadata")
)

// CheckAddress refuses the addresses that a URL of a stranger must not lead the
// runner to: ErrPrivateAddress, unless allowPrivate, and ErrSpecialAddress in
// any case. An IPv4 address within an IPv6 one is taken for itself.
func CheckAddress(addr netip.Addr, allowPrivate bool) error {
	addr = inner(addr.WithZone(""))
	in := func(p netip.Prefix) bool { return p.Contains(addr) }
	switch {
	case slices.ContainsFunc(special, in):
		return ErrSpecialAddress
	case slices.ContainsFunc(private, in):
		if allowPrivate {
			return nil
		}
		return ErrPrivateAddress
	case addr.Is4(), globalUnicast.Contains(addr):
		return nil
	}
	return ErrSpecialAddress
}

// inner returns the IPv4 address that an IPv6 one stands for: mapped
// (::ffff:0:0/96), or translated on the way (NAT64).
func inner(addr netip.Addr) netip.Addr {
	if nat64.Contains(addr) {
		b := addr.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return addr.Unmap()
}

// The registries of special addresses are
// https://www.iana.org/assignments/iana-ipv4-special-registry and
// https://www.iana.org/assignments/iana-ipv6-special-registry.
var (
	nat64         = netip.MustParsePrefix("64:ff9b::/96")
	globalUnicast = netip.MustParsePrefix("2000::/3") // all that IPv6 assigns to servers

	private = prefixes(
		"127.0.0.0/8", "::1/128", // this host
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7",
		"100.64.0.0/10", // a provider's own
		"198.18.0.0/15", // benchmarks
	)
	special = prefixes(
		"0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4",
		"169.254.0.0/16",                         // link-local, where clouds keep their metadata
		"168.63.129.16/32", "100.100.100.200/32", // metadata of Azure, of Alibaba Cloud
		"fd00:ec2::254/128", "fd20:ce::254/128", // metadata of AWS, of Google Cloud
		"192.0.0.0/24", "192.88.99.0/24", // protocols
		"192.0.2.0/24", "198.51.100.0/24", // documentation
		"203.0.113.0/24", "2001:db8::/32", "3fff::/20", // documentation
		"2001::/23", "2002::/16", // protocols, Teredo, 6to4
	)
)

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}
