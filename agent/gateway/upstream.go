package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"claude-runner/agent"
	"claude-runner/backends"
)

const (
	dialTimeout   = 10 * time.Second
	headerTimeout = 10 * time.Minute // until a Messages API begins its answer
	restDefault   = 30 * time.Second // of an upstream that failed
	restMax       = 10 * time.Minute
	oauthBeta     = "oauth-2025-04-20"
)

// upstreams calls Messages APIs, and knows which of them rest.
type upstreams struct {
	transport *http.Transport
	mu        sync.Mutex
	rest      map[agent.ModelAPI]time.Time // until when
}

func newUpstreams() *upstreams {
	return &upstreams{
		rest: map[agent.ModelAPI]time.Time{},
		transport: &http.Transport{
			DialContext:           dialUpstream,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:   dialTimeout,
			ResponseHeaderTimeout: headerTimeout,
			ForceAttemptHTTP2:     true,
			HTTP2:                 &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
			MaxIdleConnsPerHost:   64,
			IdleConnTimeout:       60 * time.Second,
			WriteBufferSize:       32 << 10,
			ReadBufferSize:        32 << 10,
			DisableCompression:    true, // usage is read from the answer as it comes
		},
	}
}

func (u *upstreams) close() { u.transport.CloseIdleConnections() }

// dialUpstream connects to a Messages API. The name of the runner's host, which
// sandboxes have, is its loopback.
func dialUpstream(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != backends.HostAlias {
		return d.DialContext(ctx, network, address)
	}
	conn, err := d.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		if six, err := d.DialContext(ctx, network, net.JoinHostPort("::1", port)); err == nil {
			return six, nil
		}
	}
	return conn, err
}

// order returns the upstreams with those that rest at the end.
func (u *upstreams) order(all []agent.ModelAPI) []agent.ModelAPI {
	if len(all) < 2 {
		return all
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	var ready, resting []agent.ModelAPI
	for _, api := range all {
		switch until, ok := u.rest[api]; {
		case !ok:
			ready = append(ready, api)
		case until.After(now):
			resting = append(resting, api)
		default:
			delete(u.rest, api)
			ready = append(ready, api)
		}
	}
	return append(ready, resting...)
}

// setAside lets the upstream rest.
func (u *upstreams) setAside(api agent.ModelAPI, retryAfter string) {
	wait := restDefault
	if seconds, err := strconv.Atoi(retryAfter); err == nil && seconds >= 0 {
		wait = min(time.Duration(min(seconds, 1<<20))*time.Second, restMax)
	} else if at, err := http.ParseTime(retryAfter); err == nil {
		wait = min(max(time.Until(at), 0), restMax)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.rest[api] = time.Now().Add(wait)
}

// send sends the sandbox's request on. connected is false where nothing of it
// can have reached the upstream.
func (u *upstreams) send(ctx context.Context, api agent.ModelAPI, in *http.Request, body []byte) (answer *http.Response, connected bool, err error) {
	base, err := url.Parse(api.BaseURL)
	if err != nil {
		return nil, false, err
	}
	target := base.JoinPath(in.URL.Path)
	target.RawQuery = in.URL.RawQuery
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }})
	var reader io.Reader
	if len(body) > 0 {
		reader = bytes.NewReader(body)
	}
	out, err := http.NewRequestWithContext(ctx, in.Method, target.String(), reader)
	if err != nil {
		return nil, false, err
	}
	out.GetBody = nil // a call that may have arrived is not sent twice behind the meter's back
	out.Header = forwarded(in.Header)
	for _, name := range []string{"X-Api-Key", "Authorization", "Cookie", "Idempotency-Key", "X-Idempotency-Key"} {
		out.Header.Del(name)
	}
	out.Header.Set("Accept-Encoding", "identity")
	if _, ok := in.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // none, rather than Go's
	}
	authorize(out.Header, api)
	answer, err = u.transport.RoundTrip(out)
	return answer, connected, err
}

// authorize puts the real credential in.
func authorize(h http.Header, api agent.ModelAPI) {
	switch {
	case api.APIKey != "":
		h.Set("X-Api-Key", api.APIKey.Reveal())
	case api.AuthToken != "":
		h.Set("Authorization", "Bearer "+api.AuthToken.Reveal())
	case api.OAuthToken != "":
		h.Set("Authorization", "Bearer "+api.OAuthToken.Reveal())
		betas := strings.Join(h.Values("Anthropic-Beta"), ",")
		for beta := range strings.SplitSeq(betas, ",") {
			if strings.TrimSpace(beta) == oauthBeta {
				return
			}
		}
		h.Set("Anthropic-Beta", strings.Trim(betas+","+oauthBeta, ","))
	}
}

// mask takes the upstream's credentials out of a text.
func mask(api agent.ModelAPI, text string) string {
	for _, secret := range []agent.Secret{api.APIKey, api.AuthToken, api.OAuthToken} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret.Reveal(), secret.String())
		}
	}
	return text
}

// hopHeaders are of one connection, and not sent on.
var hopHeaders = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// forwarded returns a message's headers without those of the connection.
func forwarded(h http.Header) http.Header {
	out := h.Clone()
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			out.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopHeaders {
		out.Del(name)
	}
	return out
}
