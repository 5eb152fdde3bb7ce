package gateway

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"

	"claude-runner/agent"
)

// The control protocol is POST requests with a JSON object each, to the paths
// below, over a unix socket in the state folder, and a stream for what is asked
// about each task, which as requests would cost several times as much. A client
// puts those questions as requests where a gateway has no stream. The version is
// in the names of the files, so that a runner never speaks to a gateway of another
// kind. Each question carries a key that is in a file beside the socket: a sandbox
// that runs as the runner's user can be kept from reading files more easily than
// from sockets.
const (
	controlName = "gateway.v1.sock"
	lockName    = "gateway.v1.lock"
	logName     = "gateway.v1.log"
	ledgerName  = "gateway.v1.json"
	keyName     = "gateway.v1.key"

	keyHeader      = "Gateway-Key"      // the content of the file keyName
	instanceHeader = "Gateway-Instance" // which process answers

	pathPing     = "/ping"
	pathOpen     = "/open"
	pathRenew    = "/renew"
	pathStream   = "/stream"
	pathClose    = "/close"
	pathTotals   = "/totals"
	pathForget   = "/forget"
	pathRefusals = "/refusals"
	pathLeases   = "/leases"
	pathWatch    = "/watch"
	pathShutdown = "/shutdown"
)

// wireLease is a Lease with its secrets, which encode to nothing elsewhere.
type wireLease struct {
	Lease
	Token     string
	Upstreams []wireAPI
	Egress    []wireRule
}

type wireAPI struct{ BaseURL, APIKey, AuthToken, OAuthToken string }

type wireRule struct {
	agent.EgressRule
	Headers map[string]string `json:"headers"`
}

func newWireLease(l Lease) wireLease {
	w := wireLease{Lease: l, Token: l.Token.Reveal()}
	for _, a := range l.Upstreams {
		w.Upstreams = append(w.Upstreams, wireAPI{a.BaseURL, a.APIKey.Reveal(), a.AuthToken.Reveal(), a.OAuthToken.Reveal()})
	}
	for _, r := range l.Egress {
		rule := wireRule{EgressRule: r}
		for name, value := range r.Headers {
			if rule.Headers == nil {
				rule.Headers = map[string]string{}
			}
			rule.Headers[name] = value.Reveal()
		}
		w.Egress = append(w.Egress, rule)
	}
	return w
}

func (w wireLease) lease() Lease {
	l := w.Lease
	l.Token, l.Upstreams, l.Egress = agent.Secret(w.Token), nil, nil
	for _, a := range w.Upstreams {
		l.Upstreams = append(l.Upstreams, agent.ModelAPI{
			BaseURL: a.BaseURL, APIKey: agent.Secret(a.APIKey), AuthToken: agent.Secret(a.AuthToken), OAuthToken: agent.Secret(a.OAuthToken),
		})
	}
	for _, r := range w.Egress {
		rule := r.EgressRule
		rule.Headers = nil
		for name, value := range maps.All(r.Headers) {
			if rule.Headers == nil {
				rule.Headers = map[string]agent.Secret{}
			}
			rule.Headers[name] = agent.Secret(value)
		}
		l.Egress = append(l.Egress, rule)
	}
	return l
}

// question names what a call is about.
type question struct {
	Lease string `json:"lease,omitempty"`
	Meter string `json:"meter,omitempty"`
	After int64  `json:"after,omitempty"`

	Budgets []Budget `json:"budgets,omitempty"` // of a lease that is renewed
}

// complaint is the answer to a call that failed.
type complaint struct {
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"` // of the errors below; empty: another
}

// kinds are the errors that a caller can match, on both sides.
var kinds = map[string]error{"invalid_lease": ErrInvalidLease, "no_lease": ErrNoLease, "in_use": errInUse}

// errInUse: the gateway has leases, and stays.
var errInUse = errors.New("the gateway has leases")

func respond(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err == nil {
		_ = json.NewEncoder(w).Encode(v)
		return
	}
	w.WriteHeader(http.StatusUnprocessableEntity)
	_ = json.NewEncoder(w).Encode(complain(err))
}

func complain(err error) complaint {
	c := complaint{Error: err.Error()}
	for kind, match := range kinds {
		if errors.Is(err, match) {
			c.Kind = kind
		}
	}
	return c
}

// remoteError is a complaint on the asking side.
type remoteError struct{ complaint }

func (e *remoteError) Error() string { return e.complaint.Error }
func (e *remoteError) Unwrap() error { return kinds[e.Kind] }
