package config

import (
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/env/v2"
)

// Prefix begins the environment variables that name a setting by its path:
// CLAUDE_RUNNER_SERVER__LISTEN is server.listen. Lists are written with commas.
const Prefix = "CLAUDE_RUNNER_"

// partsSeparator stands between the parts of a path in a variable's name.
const partsSeparator = "__"

// environment loads the variables that begin with Prefix.
func (l *loader) environment() error {
	keys := l.keyReader()
	keys.join = partsSeparator
	keys.write = variableName
	keys.newName = strings.ToLower

	origins := map[string]origin{}
	read := func(name, value string) (string, any) {
		if slices.Contains(l.opts.OtherVariables, name) {
			return "", nil
		}
		o := variable(name)
		parts := strings.Split(strings.TrimPrefix(name, Prefix), partsSeparator)
		if slices.Contains(parts, "") || hasControl(name) {
			l.errorAt(o, nil, "this names no setting: write one such as %s", variableName(path{"server", "listen"}))
			return "", nil
		}
		if len(parts) == 1 && !l.looksMeant(o, parts[0]) {
			return "", nil
		}
		p, err := keys.path(parts)
		if err != nil {
			l.errorAt(o, nil, "%s", err)
			return "", nil
		}
		origins[p.key()] = o
		return p.key(), value
	}
	return l.settings.load(env.Provider(separator, env.Opt{
		Prefix: Prefix, TransformFunc: read, EnvironFunc: l.environ,
	}), origins)
}

// looksMeant reports whether a variable with a name of one part is likely meant
// as a setting, and notes it where it is not. Others than the runner use the
// prefix: Kubernetes sets CLAUDE_RUNNER_PORT for a service called claude-runner.
func (l *loader) looksMeant(o origin, part string) bool {
	top := keysOf(configType)
	if slices.ContainsFunc(top, func(key string) bool { return strings.EqualFold(key, part) }) {
		return true
	}
	for _, p := range nested() {
		if strings.EqualFold(strings.Join(p, "_"), part) {
			l.errorAt(o, nil, "unknown key: did you mean %s?", variableName(p))
			return false
		}
	}
	if nearest(part, top) == "" {
		l.warnings = append(l.warnings, FieldError{Source: o.source, Message: "this names no setting and changes nothing"})
		return false
	}
	return true
}

// nested returns the paths of settings in sections at the top.
func nested() []path {
	var out []path
	for _, s := range settingsOf(configType) {
		if t := s.typ; !isLeaf(t) && t.Kind() == reflect.Struct {
			for _, key := range keysOf(t) {
				out = append(out, path{s.key, key})
			}
		}
	}
	return out
}

// variableName returns the variable that sets the value at p.
func variableName(p path) string {
	return Prefix + strings.ToUpper(strings.Join(p, partsSeparator))
}

func variable(name string) origin {
	return origin{kind: fromEnvironment, source: "environment variable " + name}
}

// variables returns an environment as a map.
func variables(environ []string) map[string]string {
	out := map[string]string{}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			out[name] = value
		}
	}
	return out
}
