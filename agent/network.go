package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"claude-runner/backends"
)

// NetworkMode says what the tools of an agent reach.
type NetworkMode string

// The modes.
const (
	NetworkNone      NetworkMode = "none"      // nothing but the model
	NetworkAllowlist NetworkMode = "allowlist" // what the egress rules name, through the gateway
	NetworkOpen      NetworkMode = "open"      // the engine's own network
)

// EgressRule allows a sandbox to call a host through the gateway.
type EgressRule struct {
	// Host is a name (api.example.com), all names below one (*.example.com, which
	// is not example.com itself), an IP address, a range of them in CIDR form, or
	// host.docker.internal: the loopback of the runner's own host.
	Host string `koanf:"host" json:"host"`
	// Ports are 80 and 443 where none is named. For host.docker.internal all
	// must be.
	Ports []int `koanf:"ports" json:"ports,omitempty"`
	// Methods limit plain HTTP requests; empty: any. A tunnel hides the methods
	// that go through it, so a rule with methods allows none unless one of them
	// is CONNECT.
	Methods []string `koanf:"methods" json:"methods,omitempty"`
	// Headers are put into plain HTTP requests, in place of those that the tool
	// sent. Their values never enter the sandbox, unless the host sends them back.
	Headers map[string]Secret `koanf:"headers" json:"headers,omitempty"`
	// TLS: the tool calls http://host, and the gateway goes on to https://host,
	// at port 443 unless the tool names one.
	TLS bool `koanf:"tls" json:"tls,omitempty"`
	// Private: the name may stand for private addresses. This host's own, and
	// those of ErrSpecialAddress, are reached by a rule that names the address.
	Private bool `koanf:"private" json:"private,omitempty"`
}

// Validate says what is wrong with the rule and what to write.
func (r EgressRule) Validate() error {
	err := r.checkHost()
	for _, port := range r.Ports {
		if port < 1 || port > 65535 {
			err = errors.Join(err, fmt.Errorf("ports: %d is no port: write one from 1 to 65535", port))
		}
	}
	for _, method := range r.Methods {
		if method == "" || strings.ToUpper(method) != method || !httpguts.ValidHeaderFieldName(method) {
			err = errors.Join(err, fmt.Errorf("methods: %q is no method: write one such as GET", method))
		}
	}
	for name, value := range r.Headers {
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			err = errors.Join(err, fmt.Errorf("headers: %q is no header's name", name))
		case slices.Contains(connectionHeaders, strings.ToLower(name)):
			err = errors.Join(err, fmt.Errorf("headers: %s belongs to the connection: leave it out", name))
		case !httpguts.ValidHeaderFieldValue(value.Reveal()):
			err = errors.Join(err, fmt.Errorf("headers: the value of %s has a character that a header cannot have, such as a line's end", name))
		}
	}
	if err != nil {
		return fmt.Errorf("egress rule for %q: %w", r.Host, err)
	}
	return nil
}

// connectionHeaders are the gateway's own to set.
var connectionHeaders = []string{
	"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade",
	"proxy-connection", "proxy-authorization", "proxy-authenticate",
}

func (r EgressRule) checkHost() error {
	if r.Host == backends.HostAlias {
		if len(r.Ports) == 0 {
			return errors.New("ports: are missing: name those that may be called on this host, such as [3457]")
		}
		return nil
	}
	if prefix, err := netip.ParsePrefix(r.Host); err == nil {
		if prefix != prefix.Masked() || prefix.Addr().Is4In6() {
			return fmt.Errorf("host: write the range as %s", netip.PrefixFrom(prefix.Addr(), prefix.Bits()).Masked())
		}
		return nil
	}
	if addr, err := netip.ParseAddr(r.Host); err == nil {
		if addr.Zone() != "" || addr.Is4In6() {
			return fmt.Errorf("host: write the address as %s", addr.WithZone("").Unmap())
		}
		return nil
	}
	name := strings.TrimPrefix(r.Host, "*.")
	switch {
	case r.Host == "":
		return errors.New("host: is missing: write a name such as api.example.com or *.example.com, an address, or " + backends.HostAlias)
	case strings.ToLower(name) != name:
		return errors.New("host: write it in lower case")
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		return errors.New("host: localhost is the sandbox itself: write " + backends.HostAlias + " for the runner's host")
	case !IsHostName(name):
		return errors.New("host: is no host: write a name without scheme, port and path, such as api.example.com or *.example.com, an address, or a range such as 10.1.0.0/16")
	}
	return nil
}

// IsHostName reports whether s is a name of the domain name system in lower
// case, and not one of the ways to write an address as a number (127.1, 0x7f.1).
func IsHostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
				return false
			}
		}
	}
	last := labels[len(labels)-1]
	if strings.HasPrefix(last, "0x") {
		return false
	}
	return strings.Trim(last, "0123456789") != ""
}

// Matches reports whether the rule names the host: a name in lower case without
// a dot at its end, or an address.
func (r EgressRule) Matches(host string) bool {
	if suffix, ok := strings.CutPrefix(r.Host, "*"); ok {
		return IsHostName(host) && strings.HasSuffix(host, suffix) && host != backends.HostAlias
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return r.MatchesAddress(addr)
	}
	return r.Host == host
}

// MatchesAddress reports whether the rule names the address itself.
func (r EgressRule) MatchesAddress(addr netip.Addr) bool {
	if prefix, err := netip.ParsePrefix(r.Host); err == nil {
		return prefix.Contains(addr)
	}
	named, err := netip.ParseAddr(r.Host)
	return err == nil && named == addr
}

// AllowsPort reports whether the rule allows calls to the port.
func (r EgressRule) AllowsPort(port int) bool {
	if len(r.Ports) == 0 {
		return port == 80 || port == 443
	}
	return slices.Contains(r.Ports, port)
}

// AllowsMethod reports whether the rule allows the method; CONNECT is a tunnel.
func (r EgressRule) AllowsMethod(method string) bool {
	return len(r.Methods) == 0 || slices.Contains(r.Methods, method)
}

// String is the rule as YAML on one line, its headers' values masked.
func (r EgressRule) String() string {
	fields := []string{"host: " + strconv.Quote(r.Host)}
	if len(r.Ports) > 0 {
		ports := make([]string, len(r.Ports))
		for i, port := range r.Ports {
			ports[i] = strconv.Itoa(port)
		}
		fields = append(fields, "ports: ["+strings.Join(ports, ", ")+"]")
	}
	if len(r.Methods) > 0 {
		fields = append(fields, "methods: ["+strings.Join(r.Methods, ", ")+"]")
	}
	if len(r.Headers) > 0 {
		var headers []string
		for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
			headers = append(headers, fmt.Sprintf("%q: %q", name, r.Headers[name].String()))
		}
		fields = append(fields, "headers: {"+strings.Join(headers, ", ")+"}")
	}
	if r.TLS {
		fields = append(fields, "tls: true")
	}
	if r.Private {
		fields = append(fields, "private: true")
	}
	return "{" + strings.Join(fields, ", ") + "}"
}
