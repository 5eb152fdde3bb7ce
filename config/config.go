// Package config reads the runner's configuration: defaults, a YAML file, the
// environment and flags, each going before the one named ahead of it. It finds
// every problem at once, and says of each where it is and what to write
// instead. Values of secrets appear in none of its errors or listings.
package config

import (
	"cmp"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"time"

	"claude-runner/agent"
	"claude-runner/backends"
)

// Config is a configuration that Load found valid. It is not changed after.
type Config struct {
	Server  Server `koanf:"server"`
	DataDir string `koanf:"data_dir"` // absolute

	// SandboxUser is who sandboxes are when the runner is root.
	SandboxUser backends.User `koanf:"sandbox_user"`
	// AllowUnsandboxed permits backends that isolate nothing on a server that
	// other machines reach.
	AllowUnsandboxed bool `koanf:"allow_unsandboxed"`

	Limits   Limits   `koanf:"limits"`
	Events   Events   `koanf:"events"`
	ModelAPI ModelAPI `koanf:"model_api"`
	// Prices are dollars per million tokens, by model id, over those that the
	// program has.
	Prices   map[string]agent.Price `koanf:"prices"`
	Webhooks Webhooks               `koanf:"webhooks"`
	Log      Log                    `koanf:"log"`
	// ShutdownGrace is how long running tasks may go on after SIGTERM.
	ShutdownGrace time.Duration `koanf:"shutdown_grace"`

	// Backends are the places where sandboxes run, by name.
	Backends map[string]Backend `koanf:"backends"`
	// DefaultAgent runs the tasks that name no agent. It is a key of Agents.
	DefaultAgent string `koanf:"default_agent"`
	// Agents are the profiles, by name. Each has its Name, an absolute
	// Template or none, and backends that are keys of Backends.
	Agents map[string]agent.Profile `koanf:"agents"`

	// Path is the configuration file, absolute; "" where there is none.
	Path string `koanf:"-"`
	// Warnings are what is valid but likely not what is wanted.
	Warnings []FieldError `koanf:"-"`

	opts     Options
	settings *settings
	checksum checksum // of the file as it was read
}

// Server is how the API is served.
type Server struct {
	Listen string `koanf:"listen"` // host:port; no host is every address
	// APIKeys are the keys of which a client must send one. None: no key is
	// asked for.
	APIKeys     []agent.Secret `koanf:"api_keys"`
	CORSOrigins []string       `koanf:"cors_origins"` // such as https://app.example.com, or *
	BodyLimit   agent.Bytes    `koanf:"body_limit"`   // of a request
}

// Loopback reports whether Listen is reached from this machine alone.
func (s Server) Loopback() bool {
	host, _, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// Limits bound the work of the whole runner.
type Limits struct {
	Concurrency int `koanf:"concurrency"` // tasks that run at once
	QueueDepth  int `koanf:"queue_depth"` // tasks that wait, over all sessions
	Boots       int `koanf:"boots"`       // agents that boot at once
	// Memory bounds what all agents take that wait for a message. 0: only the
	// host's own memory does.
	Memory agent.Bytes `koanf:"memory"`
}

// Events say how long the events of ended tasks are kept.
type Events struct {
	MaxAge        time.Duration `koanf:"max_age"`
	MaxPerSession int           `koanf:"max_per_session"`
}

// ModelAPI is where model calls go, and with which credential.
type ModelAPI struct {
	Upstream `koanf:",squash"`
	// Fallbacks take the calls that the ones before refuse for now: 429, 529, no
	// answer. One without a BaseURL is at the same place.
	Fallbacks []Upstream `koanf:"fallbacks"`
}

// Upstream is one Messages API.
type Upstream struct {
	BaseURL    string       `koanf:"base_url"`
	APIKey     agent.Secret `koanf:"api_key"`     // sent as x-api-key
	AuthToken  agent.Secret `koanf:"auth_token"`  // sent as a bearer token
	OAuthToken agent.Secret `koanf:"oauth_token"` // of a Claude subscription
}

// API returns u with at most one credential. Where several are set, the API key
// goes before the bearer token, and that before the subscription's token.
func (u Upstream) API() agent.ModelAPI {
	api := agent.ModelAPI{BaseURL: u.BaseURL}
	switch {
	case u.APIKey != "":
		api.APIKey = u.APIKey
	case u.AuthToken != "":
		api.AuthToken = u.AuthToken
	default:
		api.OAuthToken = u.OAuthToken
	}
	return api
}

// APIs returns the Messages APIs in the order in which they are tried.
func (m ModelAPI) APIs() []agent.ModelAPI {
	all := []agent.ModelAPI{m.API()}
	for _, f := range m.Fallbacks {
		f.BaseURL = cmp.Or(f.BaseURL, m.BaseURL)
		all = append(all, f.API())
	}
	return all
}

// Webhooks is what holds for the webhooks of all agents and tasks.
type Webhooks struct {
	// AllowPrivate permits receivers on this host and in private networks.
	AllowPrivate bool `koanf:"allow_private"`
}

// Log is what the runner logs.
type Log struct {
	Level  slog.Level `koanf:"level"`
	Format string     `koanf:"format"` // one of LogFormats
}

// LogFormats are the values that Log.Format may have.
var LogFormats = []string{"text", "json"}

// Backend is one configured backend.
type Backend struct {
	Kind   string // a key of the registry
	Config any    // what the kind's NewConfig returned, filled in
}

// What this host has decides two of the defaults.
var (
	processors = func() int { return runtime.GOMAXPROCS(0) }
	idleMemory = halfOfMemory
)

// halfOfMemory is half of what this host has; 0 where that is not known.
func halfOfMemory() agent.Bytes {
	h, err := backends.ReadHostMemory()
	if err != nil {
		return 0
	}
	return agent.Bytes(h.Total / 2 >> 20 << 20) // whole MiB
}

// defaults returns the configuration that holds where every source is silent,
// but for backends and agents.
func defaults() *Config {
	return &Config{
		Server:        Server{Listen: "127.0.0.1:3456", BodyLimit: 1 << 20},
		DataDir:       "./data",
		SandboxUser:   backends.User{UID: 10001, GID: 10001},
		Limits:        Limits{Concurrency: 8, QueueDepth: 100, Boots: processors(), Memory: idleMemory()},
		Events:        Events{MaxAge: 30 * 24 * time.Hour, MaxPerSession: 100_000},
		ModelAPI:      ModelAPI{Upstream: Upstream{BaseURL: "https://api.anthropic.com"}},
		Log:           Log{Level: slog.LevelInfo, Format: "text"},
		ShutdownGrace: 30 * time.Second,
		Backends:      map[string]Backend{},
		Agents:        map[string]agent.Profile{},
	}
}
