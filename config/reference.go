package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// A text may hold references: ${env:NAME} is the value of an environment
// variable, ${file:PATH} the content of a file without its last line break.
// "$${" is a plain "${".
const (
	referenceStart = "${"
	escapedStart   = "$${"
)

// maxSecretFile is how large a file may be that ${file:PATH} names.
const maxSecretFile = 64 << 10

// hasReference reports whether a text as written is not its own value.
func hasReference(text string) bool { return strings.Contains(text, referenceStart) }

// escape writes text so that it holds no reference.
func escape(text string) string { return strings.ReplaceAll(text, referenceStart, escapedStart) }

// errNoReference does not quote: the text may be of a secret.
var errNoReference = errors.New("what follows ${ is no reference: write ${env:NAME} or ${file:PATH}, or $${ for a plain ${")

// resolver looks up what references name.
type resolver struct {
	env map[string]string
	// folder is what a relative path in a value of that origin is relative to.
	folder func(origin) string
}

// resolve returns text, written at o, with its references replaced. Where
// lenient, a variable that is not set is empty.
func (r resolver) resolve(text string, o origin, lenient bool) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, referenceStart)
		if !found {
			out.WriteString(text)
			return out.String(), nil
		}
		if plain, escaped := strings.CutSuffix(before, "$"); escaped {
			out.WriteString(plain + referenceStart)
			text = rest
			continue
		}
		out.WriteString(before)
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", errNoReference
		}
		value, err := r.lookup(name, o, lenient)
		if err != nil {
			return "", err
		}
		out.WriteString(value)
		text = after
	}
}

// lookup returns what the reference ${name} stands for.
func (r resolver) lookup(name string, o origin, lenient bool) (string, error) {
	kind, arg, _ := strings.Cut(name, ":")
	switch {
	case kind == "env" && arg != "":
		value, set := r.env[arg]
		if !set && !lenient {
			return "", fmt.Errorf("environment variable %s is not set: set it, or write something else for ${env:%s}", arg, arg)
		}
		return value, nil
	case kind == "file" && arg != "":
		file := arg
		if !filepath.IsAbs(file) {
			file = filepath.Join(r.folder(o), file)
		}
		data, err := readFile(file, maxSecretFile)
		if err != nil {
			return "", fmt.Errorf("read ${file:%s} (%s): %s", arg, file, reason(err))
		}
		text := strings.TrimSuffix(string(data), "\n")
		return strings.TrimSuffix(text, "\r"), nil
	}
	return "", errNoReference
}
