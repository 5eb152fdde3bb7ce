package config

import (
	"strings"

	"github.com/knadh/koanf/providers/posflag"
	"github.com/spf13/pflag"
)

// The flags that are no setting of their own.
const (
	fileFlag = "config"
	setFlag  = "set"
)

// flagPaths are the settings that have a flag.
var flagPaths = map[string]path{
	"listen":     {"server", "listen"},
	"data-dir":   {"data_dir"},
	"log-level":  {"log", "level"},
	"log-format": {"log", "format"},
}

// AddFlags defines the flags that Load reads.
func AddFlags(f *pflag.FlagSet) {
	f.StringP(fileFlag, "c", "", "configuration file (default ./"+DefaultFile+", where it is there)")
	f.String("listen", "", "address to serve on, host:port (default "+defaults().Server.Listen+")")
	f.String("data-dir", "", "folder of sessions and the database (default "+defaults().DataDir+")")
	f.String("log-level", "", "debug, info, warn or error (default info)")
	f.String("log-format", "", strings.Join(LogFormats, " or ")+" (default "+LogFormats[0]+")")
	f.StringArray(setFlag, nil, "set any setting by its `path=value`, such as agents.support.max_turns=20")
}

// flags loads the flags that were given.
func (l *loader) flags() error {
	if l.opts.Flags == nil {
		return nil
	}
	origins := map[string]origin{}
	read := func(f *pflag.Flag) (string, any) {
		p, ok := flagPaths[f.Name]
		if !ok || !f.Changed {
			return "", nil
		}
		origins[p.key()] = flag(f.Name)
		return p.key(), f.Value.String()
	}
	if err := l.settings.load(posflag.ProviderWithFlag(l.opts.Flags, separator, nil, read), origins); err != nil {
		return err
	}
	return l.assignments()
}

// assignments applies the --set flags, in their order.
func (l *loader) assignments() error {
	f := l.opts.Flags.Lookup(setFlag)
	if f == nil {
		return nil
	}
	list, ok := f.Value.(pflag.SliceValue)
	if !ok {
		return nil
	}
	keys := l.keyReader()
	keys.join = "."
	keys.write = func(p path) string { return p.String() }
	keys.newName = func(name string) string { return name }
	for _, assignment := range list.GetSlice() {
		name, value, ok := strings.Cut(assignment, "=")
		parts, wellFormed := parsePath(name)
		if !ok || !wellFormed {
			// Not quoted: without a "=" it may be a value alone.
			l.errorAt(flag(setFlag), nil, "want path=value, such as --set limits.concurrency=4")
			continue
		}
		p, err := keys.path(parts)
		if err != nil {
			l.errorAt(flag(setFlag), nil, "%s", err)
			continue
		}
		if err := l.settings.set(p, value, flag(setFlag+" "+p.String())); err != nil {
			return err
		}
	}
	return nil
}

// named returns the file that --config names, "" where it is not given.
func named(f *pflag.FlagSet) string {
	if f == nil {
		return ""
	}
	if file := f.Lookup(fileFlag); file != nil && file.Changed {
		return file.Value.String()
	}
	return ""
}

func flag(name string) origin {
	return origin{kind: fromFlag, source: "flag --" + name}
}
