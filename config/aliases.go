package config

import (
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
)

// The variables below need no prefix. They go over the file and under what
// the prefixed variables and the flags say. Empty, they are as not set.

// settingAliases are the variables whose value a setting has. Where it is a
// credential, the setting refers to the variable, and so is shown by its name.
var settingAliases = []struct {
	name       string
	path       path
	credential bool
}{
	{name: "ANTHROPIC_API_KEY", path: path{"model_api", "api_key"}, credential: true},
	{name: "ANTHROPIC_AUTH_TOKEN", path: path{"model_api", "auth_token"}, credential: true},
	{name: "CLAUDE_CODE_OAUTH_TOKEN", path: path{"model_api", "oauth_token"}, credential: true},
	{name: "ANTHROPIC_BASE_URL", path: path{"model_api", "base_url"}},
	{name: "SESSIONS_DIR", path: path{"data_dir"}}, // sessions are in its folder "sessions", beside the database
}

// aliases loads the variables without a prefix that are not of profiles.
func (l *loader) aliases() error {
	flat, origins := map[string]any{}, map[string]origin{}
	put := func(p path, name, value string) {
		flat[p.key()] = value
		origins[p.key()] = variable(name)
	}
	for _, a := range settingAliases {
		switch value := l.env[a.name]; {
		case value == "":
		case a.credential:
			put(a.path, a.name, "${env:"+a.name+"}")
		default:
			put(a.path, a.name, escape(value))
		}
	}
	if port := l.env["PORT"]; port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil {
			l.errorAt(variable("PORT"), nil, "%s is not a port: write a number from 0 to 65535, such as 3456", quote(port))
		} else {
			put(path{"server", "listen"}, "PORT", l.listenOn(n))
		}
	}
	return l.settings.load(confmap.Provider(flat, separator), origins)
}

// listenOn returns the address that the file or the default gives, with
// another port.
func (l *loader) listenOn(port uint64) string {
	p := path{"server", "listen"}
	written, _ := l.settings.at(p).(string)
	if i := strings.LastIndexByte(written, ':'); hasReference(written) && i > strings.LastIndexByte(written, '}') {
		return written[:i+1] + strconv.FormatUint(port, 10)
	}
	listen, err := l.resolve(written, l.settings.origin(p), true)
	if err != nil || written == "" {
		listen = defaults().Server.Listen
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		host, _, _ = net.SplitHostPort(defaults().Server.Listen)
	}
	return escape(net.JoinHostPort(host, strconv.FormatUint(port, 10)))
}

// profileAliases are the variables that fill a setting of every profile that
// leaves it out, and how their value is written there.
var profileAliases = []struct {
	name string
	key  string
	form string // what the value must be; "" for any text
	text func(value string) (string, bool)
}{
	{name: "MODEL", key: "model"},
	{name: "DOCKER_IMAGE", key: "image"},
	{name: "MAX_TURNS", key: "max_turns", form: "a whole number: write one such as 10", text: wholeNumber},
	{name: "IDLE_TIMEOUT_MS", key: "idle_timeout", form: "a whole number of milliseconds: write one such as 600000", text: milliseconds},
}

func wholeNumber(value string) (string, bool) {
	_, err := strconv.ParseUint(value, 10, 31)
	return value, err == nil
}

func milliseconds(value string) (string, bool) {
	_, err := strconv.ParseUint(value, 10, 40)
	return value + "ms", err == nil
}

// profileVariables puts the variables that are of profiles into those that
// leave the setting out, once all sources have said which profiles there are.
func (l *loader) profileVariables() error {
	agents, _ := l.settings.at(path{"agents"}).(map[string]any)
	names := slices.Sorted(maps.Keys(agents))
	for _, a := range profileAliases {
		value := l.env[a.name]
		if value == "" {
			continue
		}
		if a.text != nil {
			text, ok := a.text(value)
			if !ok {
				l.errorAt(variable(a.name), nil, "%s is not %s", quote(value), a.form)
				continue
			}
			value = text
		}
		used := false
		for _, name := range names {
			filled, err := l.fill(path{"agents", name}, a.key, escape(value), variable(a.name))
			if err != nil {
				return err
			}
			used = used || filled
		}
		if !used {
			l.warnings = append(l.warnings, FieldError{
				Source: variable(a.name).source, Message: "it changes nothing, because every agent has its own " + a.key,
			})
		}
	}
	return l.agentDir()
}

// fill sets the key of a profile that does not have it.
func (l *loader) fill(profile path, key, value string, o origin) (bool, error) {
	switch tree := l.settings.at(profile).(type) {
	case nil:
	case map[string]any:
		if tree[key] != nil {
			return false, nil
		}
	default: // not a profile; the decoder says so
		return false, nil
	}
	return true, l.settings.set(profile.child(key), value, o)
}

// agentDir makes AGENT_DIR the template of the default agent. It goes over the
// file, whose example names a template, but not over what is more exact.
func (l *loader) agentDir() error {
	dir := l.env["AGENT_DIR"]
	name, ok := l.settings.at(path{"default_agent"}).(string)
	if dir == "" || !ok {
		return nil
	}
	agents, _ := l.settings.at(path{"agents"}).(map[string]any)
	profile, known := agents[name]
	if _, isSection := profile.(map[string]any); !known || !isSection && profile != nil {
		return nil // the decoder says so
	}
	p := path{"agents", name, "template"}
	if from := l.settings.own(p).kind; from == fromEnvironment || from == fromFlag {
		return nil
	}
	return l.settings.set(p, escape(dir), variable("AGENT_DIR"))
}
