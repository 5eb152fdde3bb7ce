package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// keyReader finds the setting that a variable or flag names.
type keyReader struct {
	settings *settings
	kinds    func(name string) reflect.Type // of a backend's configuration; nil where its kind is not known
	join     string                         // between the parts, as such a source writes them
	write    func(path) string              // how such a source writes a path
	newName  func(string) string            // the name of an agent or backend that no earlier source has
}

// path returns the path of the value that parts name. Names that are there
// already, and keys, are found whatever their case, and with _ for - and dots.
func (k keyReader) path(parts []string) (path, error) {
	var p path
	t := configType
	for i, part := range parts {
		t = pointed(t)
		switch {
		case isLeaf(t) || t.Kind() == reflect.Slice:
			return nil, fmt.Errorf("%s has no keys below it: write %s", p, k.write(p))
		case t.Kind() == reflect.Map && isLeaf(t.Elem()):
			return k.variable(p, parts[i:]), nil
		case t.Kind() == reflect.Map:
			name, err := k.name(p, part)
			if err != nil {
				return nil, err
			}
			p, t = p.child(name), t.Elem()
		default:
			s, err := k.key(p, t, parts[i:])
			if err != nil {
				return nil, err
			}
			p, t = p.child(s.key), s.typ
		}
	}
	if t = pointed(t); !isLeaf(t) && t.Kind() != reflect.Slice {
		return nil, fmt.Errorf("%s is a section: set one of its values, such as %s", p, k.write(k.example(p, t)))
	}
	return p, nil
}

func pointed(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer && !isLeaf(t) {
		return t.Elem()
	}
	return t
}

// key returns the setting of a section that the first of parts names.
func (k keyReader) key(p path, section reflect.Type, parts []string) (setting, error) {
	part := parts[0]
	if section == backendType {
		if strings.EqualFold(part, kindKey) {
			return setting{key: kindKey, typ: reflect.TypeFor[string]()}, nil
		}
		name := p[len(p)-1]
		if section = k.kinds(name); section == nil {
			return setting{}, fmt.Errorf("backend %s has no known kind: set %s too", name, k.write(p.child(kindKey)))
		}
	}
	for _, s := range settingsOf(section) {
		if strings.EqualFold(s.key, part) {
			return s, nil
		}
	}
	return setting{}, fmt.Errorf("unknown key %s: %s", quote(part), k.suggest(p, parts, keysOf(section)))
}

// name returns the name of an agent or a backend.
func (k keyReader) name(p path, part string) (string, error) {
	tree, _ := k.settings.at(p).(map[string]any)
	known := slices.Sorted(maps.Keys(tree))
	name, ok := oneFolded(part, known)
	if !ok {
		return "", fmt.Errorf("%s could be more than one of %s: give them names that differ in more than case and dashes", quote(part), strings.Join(known, ", "))
	}
	if name == "" {
		name = k.newName(part)
	}
	return name, nil
}

// variable returns the path of an environment variable in a profile. Its name
// is all the rest of the parts.
func (k keyReader) variable(p path, parts []string) path {
	name := strings.Join(parts, k.join)
	tree, _ := k.settings.at(p).(map[string]any)
	for known := range tree {
		if strings.EqualFold(known, name) {
			return p.child(known)
		}
	}
	return p.child(name)
}

// suggest ends a message about an unknown key, the first of parts.
func (k keyReader) suggest(p path, parts []string, known []string) string {
	if key := nearest(parts[0], known); key != "" {
		return "did you mean " + k.write(append(p.child(key), parts[1:]...)) + "?"
	}
	return "want " + oneOf(known)
}

// example returns the path of some value below the section at p.
func (k keyReader) example(p path, t reflect.Type) path {
	for {
		switch {
		case t == backendType:
			return p.child(kindKey)
		case isLeaf(t) || t.Kind() == reflect.Slice:
			return p
		case t.Kind() == reflect.Struct && len(settingsOf(t)) > 0:
			s := settingsOf(t)[0]
			p, t = p.child(s.key), s.typ
		case t.Kind() == reflect.Struct:
			return p
		default:
			p, t = p.child("NAME"), t.Elem()
		}
	}
}
