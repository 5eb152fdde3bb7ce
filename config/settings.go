package config

import (
	"maps"
	"strconv"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
)

// settings are what all sources say together: one tree of maps, lists
// ([]any), texts (string) and nils, merged by koanf, and where each value of it
// came from.
type settings struct {
	tree    *koanf.Koanf
	origins map[string]origin // by path.key
	raw     map[string]any    // of tree, made on demand
}

// origin is where a value came from. The zero origin is a default.
type origin struct {
	kind   originKind
	source string // as FieldError.Source
	line   int
}

type originKind int

const (
	fromDefault originKind = iota
	fromFile
	fromEnvironment
	fromFlag
)

func (o origin) String() string {
	if o.line > 0 {
		return o.source + ":" + strconv.Itoa(o.line)
	}
	return o.source
}

func newSettings() *settings {
	return &settings{tree: koanf.New(separator), origins: map[string]origin{}}
}

// load lays what p provides over what is there. origins says where its values
// came from.
func (s *settings) load(p koanf.Provider, origins map[string]origin) error {
	layer := koanf.New(separator)
	if err := layer.Load(p, nil); err != nil {
		return err
	}
	for _, key := range layer.Keys() {
		// What stood here before is replaced, a list with all its elements.
		maps.DeleteFunc(s.origins, func(k string, _ origin) bool {
			return k == key || strings.HasPrefix(k, key+separator)
		})
	}
	maps.Copy(s.origins, origins)
	s.raw = nil
	return s.tree.Merge(layer)
}

// set puts one value in, over what is there.
func (s *settings) set(p path, value any, o origin) error {
	return s.load(confmap.Provider(map[string]any{p.key(): value}, separator), map[string]origin{p.key(): o})
}

// at returns the value at p as it is written, references unresolved. List
// elements are found only in lists.
func (s *settings) at(p path) any {
	if s.raw == nil {
		s.raw = s.tree.Raw()
	}
	value := any(s.raw)
	for _, part := range p {
		switch v := value.(type) {
		case map[string]any:
			value = v[part]
		case []any:
			i, err := strconv.Atoi(strings.Trim(part, "[]"))
			if err != nil || i < 0 || i >= len(v) {
				return nil
			}
			value = v[i]
		default:
			return nil
		}
	}
	return value
}

// origin returns where the value at p came from, or else what encloses it.
func (s *settings) origin(p path) origin {
	for i := len(p); i > 0; i-- {
		if o, ok := s.origins[p[:i].key()]; ok {
			return o
		}
	}
	return origin{}
}

// own returns where the value at p itself came from: a default is the zero
// origin.
func (s *settings) own(p path) origin { return s.origins[p.key()] }

// element returns the path of the i-th element of the list at p where it was
// written by itself, or p where the list was written as one text.
func (s *settings) element(p path, i int) path {
	if _, ok := s.origins[p.element(i).key()]; ok {
		return p.element(i)
	}
	return p
}

// quote returns what is written at p in quotes, a reference unresolved. value
// is what was read from it, for a default and for a part of a longer text.
func (s *settings) quote(p path, value string) string {
	if raw, ok := s.at(p).(string); ok && (hasReference(raw) || !strings.Contains(raw, ",")) {
		return quote(raw)
	}
	return quote(value)
}

// elements returns the parts of a list: its own, or those of one text. A text
// of the environment or a flag is cut at its commas.
func elements(list any, from originKind) []any {
	switch v := list.(type) {
	case []any:
		return v
	case string:
		if from != fromEnvironment && from != fromFlag {
			return []any{v}
		}
		parts := []any{}
		if strings.TrimSpace(v) != "" {
			for part := range strings.SplitSeq(v, ",") {
				parts = append(parts, strings.TrimSpace(part))
			}
		}
		return parts
	}
	return nil
}
