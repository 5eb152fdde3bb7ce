package podman

import (
	"net"

	"claude-runner/backends"
)

// network asks for the network of a mode.
func network(e *engine, mode backends.NetworkMode, r *createRequest) {
	if mode == backends.NetworkNone {
		r.NetNS = &namespace{"none"}
		return
	}
	switch host := hostAddress(); {
	case e.atLeast(4, 7):
		r.Hosts = []string{backends.HostAlias + ":host-gateway"}
	case host != nil:
		// An address of this host is reached from any network that leads out.
		r.Hosts = []string{backends.HostAlias + ":" + host.String()}
	case e.rootless():
		// This host has loopback alone, which slirp4netns shows at 10.0.2.2.
		r.NetNS = &namespace{"slirp4netns"}
		r.NetworkOptions = map[string][]string{"slirp4netns": {"allow_host_loopback=true"}}
		r.Hosts = []string{backends.HostAlias + ":10.0.2.2"}
	}
}

// hostAddress returns this host's IPv4 address on the way out, else any that
// is not loopback; nil where there is none.
func hostAddress() net.IP {
	// Connecting a datagram socket sends nothing: it asks for the route.
	if conn, err := net.Dial("udp4", "203.0.113.1:9"); err == nil {
		defer conn.Close()
		if a, ok := conn.LocalAddr().(*net.UDPAddr); ok && a.IP.IsGlobalUnicast() {
			return a.IP
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP
		}
	}
	return nil
}
