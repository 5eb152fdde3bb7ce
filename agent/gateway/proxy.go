package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"claude-runner/agent"
)

const egressHeaderTimeout = 5 * time.Minute

// proxy forwards a plain HTTP request. Each has a connection of its own, so
// that none goes over one that was allowed to another rule.
func (l *lease) proxy(w http.ResponseWriter, r *http.Request, c *config) {
	if r.URL.Scheme != "http" {
		l.refuse(w, r, c, r.URL.Host, &denial{reason: "the proxy takes " + r.URL.Scheme + " URLs as tunnels only: use CONNECT"})
		return
	}
	to, ok := l.reach(w, r, c, 80)
	if !ok {
		return
	}
	defer to.conn.Close()
	answer, err := l.gateway.roundTrip(r, to.rule, to.target, to.port, to.conn)
	if err != nil {
		if r.Context().Err() != nil {
			panic(http.ErrAbortHandler)
		}
		http.Error(w, fmt.Sprintf("%s does not answer: %v", to.target, err), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	for name, values := range forwarded(answer.Header) {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	if !stream(w, answer.Body) {
		panic(http.ErrAbortHandler)
	}
}

// reached is a target that a rule allows, and a connection to it.
type reached struct {
	target target
	rule   agent.EgressRule
	port   int
	conn   net.Conn
}

// reach connects to what a request names, where the lease allows it. Otherwise
// it has answered the request.
func (l *lease) reach(w http.ResponseWriter, r *http.Request, c *config, defaultPort int) (to reached, ok bool) {
	t, err := readTarget(r.URL.Host, defaultPort)
	if err != nil {
		l.refuse(w, r, c, r.URL.Host, &denial{reason: err.Error()})
		return to, false
	}
	rule, port, no := c.decide(r.Method, t)
	var conn net.Conn
	if no == nil {
		conn, no, err = l.gateway.dial(r.Context(), c, rule, r.Method, t, port)
	}
	switch {
	case no != nil:
		l.refuse(w, r, c, t.String(), no)
		return to, false
	case err != nil:
		http.Error(w, fmt.Sprintf("%s is not reached: %v", t, err), http.StatusBadGateway)
		return to, false
	}
	return reached{t, rule, port, conn}, true
}

// roundTrip sends the request over the connection. The Host header is the
// URL's, whatever the tool has sent: net/http takes it from there.
func (g *Gateway) roundTrip(r *http.Request, rule agent.EgressRule, t target, port int, conn net.Conn) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.RequestURI, out.URL.User, out.URL.Fragment = "", nil, ""
	out.Header = forwarded(r.Header)
	for name, value := range rule.Headers {
		out.Header.Set(name, value.Reveal())
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil
	}
	if rule.TLS {
		out.URL.Scheme = "https"
		if t.port == 80 {
			t.port = port
			out.URL.Host, out.Host = t.host, t.host
		}
	}
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	once := conn
	transport := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if once == nil {
				return nil, errors.New("the connection is used up")
			}
			conn := once
			once = nil
			return conn, nil
		},
		TLSClientConfig: g.options.TLS.Clone(), TLSHandshakeTimeout: dialTimeout,
		DisableKeepAlives: true, DisableCompression: true,
		ResponseHeaderTimeout: egressHeaderTimeout, MaxResponseHeaderBytes: 256 << 10,
	}
	return transport.RoundTrip(out)
}

// stream passes on what comes as it comes, and reports whether it came whole.
func stream(w http.ResponseWriter, from io.Reader) bool {
	control := http.NewResponseController(w)
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	for {
		n, err := from.Read(buffer[:])
		if n > 0 {
			_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
			if _, err := w.Write(buffer[:n]); err != nil || control.Flush() != nil {
				return false
			}
		}
		if err != nil {
			return err == io.EOF
		}
	}
}

// refuse answers that the request is not allowed, and notes it.
func (l *lease) refuse(w http.ResponseWriter, r *http.Request, c *config, where string, no *denial) {
	told := l.refusals.add(Refusal{
		Time: time.Now(), Meter: c.Meter, Method: shorten(r.Method), Target: shorten(where), Reason: no.reason, Rule: no.rule,
	})
	if told {
		l.gateway.ledger.refused(c.Meter)
	}
	text := fmt.Sprintf("The runner's gateway refuses %s %s: %s.\n", r.Method, where, no.reason)
	if no.rule != "" {
		text += "This rule in the agent's egress list would allow it:\n  - " + no.rule + "\n"
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusForbidden)
	_, _ = io.WriteString(w, text)
}

// shorten bounds what a sandbox can make the runner remember.
func shorten(s string) string {
	const limit = 300
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
