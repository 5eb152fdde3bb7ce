package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/cors"

	"claude-runner/agent"
	"claude-runner/session"
)

// access decides who may call. Programs need an API key, where there are any
// (see identify).
// Web pages are another matter: a page of any site can send requests to a
// runner on its visitor's laptop, so only pages of this host, and those that
// the configuration names, may.
type access struct {
	keys    []configKey
	ring    *session.Keyring
	secret  []byte          // signs stream tokens
	every   bool            // every page may call
	origins map[string]bool // of pages that may call
	hosts   map[string]bool // of those origins
}

func newAccess(manager *session.Manager, keys []agent.Secret, origins []string) *access {
	a := &access{
		ring: manager.Keys(), secret: manager.StreamSecret(),
		origins: map[string]bool{}, hosts: map[string]bool{},
	}
	for i, k := range keys {
		a.keys = append(a.keys, configKey{sha256.Sum256([]byte(k.Reveal())), fmt.Sprintf("server.api_keys[%d]", i)})
	}
	for _, o := range origins {
		o = strings.ToLower(strings.TrimSuffix(o, "/"))
		a.every = a.every || o == "*"
		a.origins[o] = true
		if u, err := url.Parse(o); err == nil {
			a.hosts[u.Hostname()] = true
		}
	}
	return a
}

// checkOrigin refuses web pages that may not call.
//
// A browser names the page's origin in every request that could change
// something. It does not when it reads from what it takes for the page's own
// server, which is this one when the page's owner has pointed his domain to
// this machine (DNS rebinding); the Host header then still names the domain.
func (a *access) checkOrigin(c *fiber.Ctx) error {
	host := strings.ToLower(string(c.Request().Header.Host()))
	if onLoopback(c.Context().LocalAddr()) && !a.trustsHost(hostname(host)) {
		return &session.Error{Code: CodeHost, Message: fmt.Sprintf(
			"this runner is not known as %q; call it localhost, or add the origin (such as https://%s) to server.cors_origins, or set server.api_keys", shown(host), shown(host))}
	}
	origin := strings.ToLower(c.Get(fiber.HeaderOrigin))
	if origin == "" || a.allowsOrigin(origin) || a.sameHost(origin, host) {
		return c.Next()
	}
	return &session.Error{Code: CodeOrigin, Message: fmt.Sprintf(
		"web pages of %q may not call this runner; add the origin to server.cors_origins to let them", shown(origin))}
}

// trustsHost reports whether a request to this computer may call it by name.
func (a *access) trustsHost(name string) bool {
	return a.every || a.hosts[name] || !canRebind(name) || a.asksSurely()
}

// allowsOrigin reports whether pages of origin may call, by the configuration
// or because they are this computer's own.
func (a *access) allowsOrigin(origin string) bool {
	if a.every || a.origins[origin] {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && isLoopback(u.Hostname())
}

// sameHost reports whether the page comes from the server that it calls, and
// that can be trusted: because a key is asked for, or because of the name.
func (a *access) sameHost(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && u.Host == host && (!canRebind(u.Hostname()) || a.asksSurely())
}

// asksSurely is asks, and false where that is not known.
func (a *access) asksSurely() bool {
	asks, err := a.asks(context.Background())
	return err == nil && asks
}

// cors tells browsers which pages may read the answers.
func (a *access) cors() fiber.Handler {
	return cors.New(cors.Config{
		AllowOriginsFunc: a.allowsOrigin,
		AllowMethods:     "GET,POST,PATCH,DELETE",
		AllowHeaders:     "Authorization,Content-Type,X-Request-Id,Idempotency-Key,Prefer,Last-Event-ID,Traceparent",
		ExposeHeaders:    "X-Request-Id,Retry-After,Location,Link,Preference-Applied",
		MaxAge:           600,
	})
}

func onLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

func isLoopback(name string) bool {
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.IsLoopback()
	}
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// canRebind reports whether somebody on the internet could own the name and
// let it mean this machine. Addresses are no names, a name without a dot is the
// local network's, and those under .localhost and .internal are nobody's.
func canRebind(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return false
	}
	name = strings.TrimSuffix(name, ".")
	return strings.Contains(name, ".") && !strings.HasSuffix(name, ".localhost") && !strings.HasSuffix(name, ".internal")
}

// hostname returns a Host header without its port.
func hostname(host string) string {
	u := url.URL{Host: host}
	return u.Hostname()
}
