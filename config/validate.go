package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// validator finds what is wrong with values that are of the right type.
type validator struct {
	*decoder
	cfg       *Config
	opts      Options
	undecoded map[string]bool // by path.key: the value is not the one that is written
}

// validate notes what is wrong with cfg, which d has decoded.
func validate(d *decoder, cfg *Config, opts Options) {
	v := &validator{decoder: d, cfg: cfg, opts: opts, undecoded: maps.Clone(d.failed)}
	v.server()
	v.runner()
	v.modelAPI()
	v.backends()
	v.exposure()
	v.agents()
}

// errorf notes a problem of a value, unless the decoder has one to mend first.
func (v *validator) errorf(p path, format string, args ...any) {
	for i := range p {
		if v.undecoded[p[:i+1].key()] {
			return
		}
	}
	v.decoder.errorf(p, format, args...)
}

// nameForm is what names of agents and backends look like. They are parts of
// labels and paths.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

func (v *validator) server() {
	s := v.cfg.Server
	if err := checkListen(s.Listen); err != nil {
		p := path{"server", "listen"}
		v.errorf(p, "%s %s", v.settings.quote(p, s.Listen), err)
	}
	keys := path{"server", "api_keys"}
	for i, key := range s.APIKeys {
		if key == "" {
			v.errorf(v.settings.element(keys, i), "the key is empty: write ${env:NAME} with a variable that has one, or remove it")
		}
	}
	for i, o := range s.CORSOrigins {
		p := v.settings.element(path{"server", "cors_origins"}, i)
		if !isOrigin(o) {
			v.errorf(p, "%s is no origin: write scheme and host, such as https://app.example.com, or \"*\" for all", v.settings.quote(p, o))
		}
	}
	if s.BodyLimit < 1 {
		v.errorf(path{"server", "body_limit"}, "no request would be small enough: write a size such as 1MiB")
	}
}

// checkListen says what is wrong with an address; the error goes on after it.
func checkListen(listen string) error {
	host, port, err := net.SplitHostPort(listen)
	switch {
	case err != nil:
		return fmt.Errorf("is not host:port: write one such as 127.0.0.1:3456, or 0.0.0.0:3456 for all addresses")
	case strings.ContainsAny(host, "/ \t"):
		return fmt.Errorf("has no host name: write host:port without scheme and path, such as 127.0.0.1:3456")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("has no port number: write one from 0 to 65535, such as 3456")
	}
	return nil
}

func isOrigin(text string) bool {
	u, err := url.Parse(text)
	return text == "*" || err == nil && u.Scheme != "" && u.Host != "" &&
		u.User == nil && u.Path == "" && u.RawQuery == "" && u.Fragment == ""
}

// runner checks what concerns the whole runner.
func (v *validator) runner() {
	c := v.cfg
	if c.DataDir == "" {
		v.errorf(path{"data_dir"}, "it is empty: write a folder such as ./data")
	}
	if c.SandboxUser.UID < 1 {
		v.errorf(path{"sandbox_user", "uid"}, "sandboxes never run as root: write an unprivileged user's id, such as 10001")
	}
	if c.SandboxUser.GID < 1 {
		v.errorf(path{"sandbox_user", "gid"}, "sandboxes never run as root: write an unprivileged group's id, such as 10001")
	}
	for _, limit := range []struct {
		key   string
		value int
	}{
		{"concurrency", c.Limits.Concurrency}, {"queue_depth", c.Limits.QueueDepth}, {"boots", c.Limits.Boots},
	} {
		if limit.value < 1 {
			v.errorf(path{"limits", limit.key}, "with %d nothing could run: write a number above zero", limit.value)
		}
	}
	if c.Limits.Memory < 0 {
		v.errorf(path{"limits", "memory"}, "memory can't be below zero: write a size such as 8GiB, or 0 for no bound but the host's own")
	}
	v.atLeast(path{"events", "max_age"}, c.Events.MaxAge, time.Minute, "1m or more, such as 720h")
	if n := c.Events.MaxPerSession; n < 1 {
		v.errorf(path{"events", "max_per_session"}, "with %d no stream could be read again: write a number above zero", n)
	}
	if !slices.Contains(LogFormats, c.Log.Format) {
		p := path{"log", "format"}
		v.errorf(p, "%s is no format: write %s", v.settings.quote(p, c.Log.Format), strings.Join(LogFormats, " or "))
	}
	v.atLeast(path{"shutdown_grace"}, c.ShutdownGrace, 0, "0s or more, such as 30s")
}

// atLeast checks a duration.
func (v *validator) atLeast(p path, value, least time.Duration, form string) {
	if value < least {
		v.errorf(p, "%s is too short: write %s", v.settings.quote(p, shortDuration(value)), form)
	}
}

func (v *validator) modelAPI() {
	p := path{"model_api"}
	v.baseURL(p.child("base_url"), v.cfg.ModelAPI.BaseURL)
	v.credentials(p, v.cfg.ModelAPI.Upstream)
	for i, u := range v.cfg.ModelAPI.Fallbacks {
		at := p.child("fallbacks").element(i)
		if u.BaseURL != "" {
			v.baseURL(at.child("base_url"), u.BaseURL)
		}
		if len(v.credentials(at, u)) == 0 {
			v.errorf(at, "it has no credential: write api_key, auth_token or oauth_token, or remove it")
		}
	}
	for _, model := range slices.Sorted(maps.Keys(v.cfg.Prices)) {
		price := v.cfg.Prices[model]
		if min(price.Input, price.Output, price.CacheRead, price.CacheWrite) < 0 {
			v.errorf(path{"prices", model}, "a price is below zero: write dollars per million tokens")
		}
	}
}

func (v *validator) baseURL(p path, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		// Not quoted: what is wrong with it may be a password's character.
		v.errorf(p, "this is no URL of a server: write one such as https://api.anthropic.com")
	case u.User != nil:
		v.errorf(p, "a URL is no place for a password: set auth_token or api_key beside it")
	case u.RawQuery != "" || u.Fragment != "":
		v.errorf(p, "the URL goes on with ? or #: write it without")
	}
}

// credentials returns those of an upstream at p that are set. The first is used.
func (v *validator) credentials(p path, u Upstream) []path {
	var set []path
	for _, credential := range []struct {
		key   string
		isSet bool
	}{
		{"api_key", u.APIKey != ""}, {"auth_token", u.AuthToken != ""}, {"oauth_token", u.OAuthToken != ""},
	} {
		if credential.isSet {
			set = append(set, p.child(credential.key))
		}
	}
	for _, unused := range set[min(1, len(set)):] {
		v.warnf(unused, "it is not used, because %s is set too", set[0])
	}
	return set
}

func (v *validator) backends() {
	if len(v.cfg.Backends) == 0 {
		v.errorf(path{"backends"}, "there is none: write at least one, such as {docker: {kind: docker}}")
	}
	for _, name := range slices.Sorted(maps.Keys(v.cfg.Backends)) {
		v.name(path{"backends", name}, name)
	}
}

func (v *validator) name(p path, name string) {
	if !nameForm.MatchString(name) {
		v.errorf(p, "a name has 1 to 63 letters, digits, '-', '_' or '.' and begins with a letter or digit: write one such as support-agent")
	}
}

// exposure checks who reaches the server, and what stands between them and
// this host. That they are asked for a key is serve's to check: keys are in the
// database too.
func (v *validator) exposure() {
	listen := path{"server", "listen"}
	if v.cfg.Server.Loopback() || checkListen(v.cfg.Server.Listen) != nil {
		return
	}
	if v.cfg.AllowUnsandboxed {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(v.cfg.Backends)) {
		if kind := v.cfg.Backends[name].Kind; slices.Contains(v.opts.Unsandboxed, kind) {
			v.errorf(listen, "other machines reach this address, and backend %s (kind %s) isolates nothing: "+
				"agents run as plain processes of this host. Listen on 127.0.0.1, or configure backends without it, "+
				"or accept it with allow_unsandboxed: true", name, kind)
		}
	}
}
