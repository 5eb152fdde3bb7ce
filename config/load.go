package config

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/spf13/pflag"

	"claude-runner/backends"
)

// Options say where a configuration is read from. The zero value of a field is
// what the program itself uses.
type Options struct {
	// Path is the configuration file. Empty is the flag --config, and without
	// it DefaultFile in Dir, where it is there.
	Path string
	// Dir is the working folder: "" the process's own.
	Dir string
	// Environ returns the environment as NAME=value: nil is os.Environ.
	Environ func() []string
	// Flags are the parsed flags of AddFlags; nil is none. Flags that the set
	// lacks are not read.
	Flags *pflag.FlagSet

	// Kinds are the kinds that a backend may have, the most wanted first: where
	// no backends are configured there is one of each, and agents that name
	// none use these in this order.
	Kinds []backends.Kind
	// Unsandboxed names the kinds whose sandboxes isolate nothing.
	Unsandboxed []string
	// OtherVariables begin with Prefix and are no settings: the caller has
	// another use for them.
	OtherVariables []string
	// ReservedArgs are the arguments that extra_args may not hold, because the
	// runner gives them itself or could not work with them, each with the
	// reason in a few words.
	ReservedArgs map[string]string
	// ReservedEnv are the environment variables that env and secrets of a
	// profile may not set, because the runner sets them itself.
	ReservedEnv []string
}

// Load reads the configuration. Its error is an Errors, with all problems.
//
// Sources go one over the other: defaults, the file, the environment (the
// variables of other programs, such as PORT and ANTHROPIC_API_KEY, then those
// that begin with Prefix), flags. MODEL, MAX_TURNS, IDLE_TIMEOUT_MS and
// DOCKER_IMAGE fill what a profile leaves out. Relative paths in the file are
// relative to its folder, those of the environment and of flags to Options.Dir.
func Load(opts Options) (*Config, error) {
	l, err := newLoader(opts)
	if err != nil {
		return nil, err
	}
	cfg := defaults()
	if !l.file() {
		return nil, l.err()
	}
	for _, layer := range []func() error{l.aliases, l.environment, l.flags, l.soleAgent, l.profileVariables} {
		if err := layer(); err != nil {
			return nil, Errors{{Message: err.Error()}}
		}
	}
	l.config(cfg)
	l.complete(cfg)
	validate(&l.decoder, cfg, opts)
	if err := l.err(); err != nil {
		return nil, err
	}
	cfg.Path, cfg.Warnings = l.path, sorted(l.warnings)
	cfg.opts, cfg.settings, cfg.checksum = opts, l.settings, l.checksum
	cfg.opts.Path = l.source
	return cfg, nil
}

// Reload reads the configuration that c came from again. A file that was there
// and is gone is an error.
func (c *Config) Reload() (*Config, error) { return Load(c.opts) }

// loader reads one configuration.
type loader struct {
	decoder
	opts     Options
	dir      string // absolute
	path     string // of the file, absolute; "" where there is none
	source   string // the file as messages name it
	checksum checksum

	impliedBackends bool // the file names none
}

func newLoader(opts Options) (*loader, error) {
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, Errors{{Message: "find the working folder: " + err.Error()}}
	}
	l := &loader{opts: opts, dir: dir}
	l.report = &report{settings: newSettings(), failed: map[string]bool{}}
	l.resolver = resolver{env: variables(l.environ()), folder: l.folder}
	l.kinds = map[string]backends.Kind{}
	for _, k := range opts.Kinds {
		l.kinds[k.Name] = k
		l.names = append(l.names, k.Name)
	}
	return l, nil
}

func (l *loader) environ() []string {
	if l.opts.Environ != nil {
		return l.opts.Environ()
	}
	return os.Environ()
}

// folder returns what relative paths written at o are relative to.
func (l *loader) folder(o origin) string {
	if l.path == "" || o.kind == fromEnvironment || o.kind == fromFlag {
		return l.dir
	}
	return filepath.Dir(l.path)
}

// absolute returns a path that was written at p as an absolute one.
func (l *loader) absolute(name string, p path) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(l.folder(l.settings.origin(p)), name)
}

// keyReader returns a reader of keys that knows what is loaded so far.
func (l *loader) keyReader() keyReader {
	return keyReader{settings: l.settings, kinds: func(backend string) reflect.Type {
		p := path{"backends", backend, kindKey}
		name, ok := l.settings.at(p).(string)
		if !ok {
			name = l.env[variableName(p)]
		}
		kind, ok := l.kinds[name]
		if !ok {
			return nil
		}
		return reflect.TypeOf(kind.NewConfig()).Elem()
	}}
}

// file loads the configuration file, and before it the backends and the agent
// that are there where it names none. It reports whether the rest can be read.
func (l *loader) file() bool {
	l.source = cmp.Or(l.opts.Path, named(l.opts.Flags))
	name := cmp.Or(l.source, DefaultFile)
	l.path = name
	if !filepath.IsAbs(name) {
		l.path = filepath.Join(l.dir, name)
	}
	data, err := readFile(l.path, maxFileSize)
	switch {
	case l.source == "" && errors.Is(err, fs.ErrNotExist):
		l.path, data = "", nil
	case err != nil:
		l.errorAt(origin{source: name}, nil, "the configuration can not be read: %s; name another with --config, or make one with `claude-runner init`", reason(err))
		return false
	default:
		l.source, l.checksum = name, sha256.Sum256(data)
	}

	doc, ok := parse(data, name, l.report)
	if !ok {
		return false
	}
	for _, layer := range []document{l.implied(doc.tree), doc} {
		if err := l.settings.load(confmap.Provider(layer.tree, ""), layer.origins); err != nil {
			l.errorAt(origin{source: name}, nil, "%s", err)
			return false
		}
	}
	return true
}

// implied returns the backends and the agent that are there where the file,
// of which this is the tree, names none.
func (l *loader) implied(file map[string]any) document {
	tree := map[string]any{}
	if file["backends"] == nil {
		l.impliedBackends = true
		delete(file, "backends")
		all := map[string]any{}
		for _, kind := range l.names {
			all[kind] = map[string]any{kindKey: kind}
		}
		tree["backends"] = all
	}
	if file["agents"] == nil {
		delete(file, "agents")
		tree["agents"] = map[string]any{"default": map[string]any{}}
		tree["default_agent"] = "default"
	}
	return document{tree: tree}
}

// soleAgent makes the only agent the default one, where none is named.
func (l *loader) soleAgent() error {
	agents, _ := l.settings.at(path{"agents"}).(map[string]any)
	p := path{"default_agent"}
	if len(agents) != 1 || l.settings.at(p) != nil {
		return nil
	}
	for name := range agents {
		return l.settings.set(p, escape(name), origin{})
	}
	return nil
}

// complete fills in what depends on other settings, and makes paths absolute.
func (l *loader) complete(cfg *Config) {
	cfg.DataDir = l.absolute(cfg.DataDir, path{"data_dir"})
	for name, profile := range cfg.Agents {
		profile.Template = l.absolute(profile.Template, path{"agents", name, "template"})
		if len(profile.Backend) == 0 {
			profile.Backend = l.backendsOfAll(cfg)
		}
		cfg.Agents[name] = profile
	}
}

// backendsOfAll returns the backends of agents that name none: nil where it
// takes a decision.
func (l *loader) backendsOfAll(cfg *Config) []string {
	switch {
	case l.impliedBackends:
		return slices.Clone(l.names)
	case len(cfg.Backends) == 1:
		return slices.Collect(maps.Keys(cfg.Backends))
	}
	return nil
}
