package config

import (
	"encoding"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"claude-runner/agent"
)

// The types that the decoder knows by name.
var (
	configType   = reflect.TypeFor[Config]()
	backendType  = reflect.TypeFor[Backend]()
	profileType  = reflect.TypeFor[agent.Profile]()
	secretType   = reflect.TypeFor[agent.Secret]()
	bytesType    = reflect.TypeFor[agent.Bytes]()
	durationType = reflect.TypeFor[time.Duration]()
	levelType    = reflect.TypeFor[slog.Level]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// kindKey is the one key that every backend has.
const kindKey = "kind"

// setting is a struct's field that the configuration sets.
type setting struct {
	key   string
	index []int
	typ   reflect.Type
}

// settingsOf returns the fields of a struct type that the configuration sets:
// the exported ones, under the key of their koanf tag or else their name in
// small letters, those of embedded structs among them. A tag of "-" leaves a
// field out.
func settingsOf(t reflect.Type) []setting {
	var out []setting
	for _, f := range reflect.VisibleFields(t) {
		key, _, _ := strings.Cut(f.Tag.Get("koanf"), ",")
		if !f.IsExported() || f.Anonymous || key == "-" {
			continue
		}
		if key == "" {
			key = strings.ToLower(f.Name)
		}
		out = append(out, setting{key: key, index: f.Index, typ: f.Type})
	}
	return out
}

// keysOf returns the keys of a struct type's settings, in its order.
func keysOf(t reflect.Type) []string {
	var keys []string
	for _, s := range settingsOf(t) {
		keys = append(keys, s.key)
	}
	return keys
}

// find returns the setting of that key.
func find(t reflect.Type, key string) (setting, bool) {
	all := settingsOf(t)
	i := slices.IndexFunc(all, func(s setting) bool { return s.key == key })
	if i < 0 {
		return setting{}, false
	}
	return all[i], true
}

// isLeaf reports whether a value of the type is written as one text.
func isLeaf(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textType) {
		return true
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map, reflect.Slice, reflect.Pointer:
		return false
	}
	return true
}

// holdsSecret reports whether values of the type are or contain secrets, so
// that no text given for one may be shown.
func holdsSecret(t reflect.Type) bool {
	switch {
	case t == secretType, t == backendType: // what a kind's settings are is the kind's to know
		return true
	case isLeaf(t):
		return false
	case t.Kind() == reflect.Struct:
		return slices.ContainsFunc(settingsOf(t), func(s setting) bool { return holdsSecret(s.typ) })
	}
	return holdsSecret(t.Elem())
}

// locate returns where else in the configuration a key is known, "" if
// nowhere: in a section below t, the struct in which it was not found, or else
// anywhere from the top.
func locate(t reflect.Type, key string) string {
	if p := below(t, key); p != nil {
		return "did you mean " + p.String() + "?"
	}
	if p := below(configType, key); p != nil {
		return "it belongs at " + p.String()
	}
	return ""
}

// below returns the path of a key in the sections of a struct type.
func below(t reflect.Type, key string) path {
	for _, s := range settingsOf(t) {
		p := path{s.key}
		section := s.typ
		if section.Kind() == reflect.Map && section.Elem() == profileType {
			section, p = section.Elem(), p.child("NAME")
		}
		if section.Kind() != reflect.Struct || isLeaf(section) {
			continue
		}
		if _, ok := find(section, key); ok {
			return p.child(key)
		}
		if deeper := below(section, key); deeper != nil {
			return append(p, deeper...)
		}
	}
	return nil
}
