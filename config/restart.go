package config

import (
	"maps"
	"reflect"
	"slices"
)

// RestartNeeded returns the paths of the settings that differ between the
// configuration a runner was started with and a new one, and that a running
// runner can not take over: all but agents and default_agent. An agent of the
// new one may name a backend that is among them.
func RestartNeeded(running, next *Config) []string {
	return changed(nil, reflect.ValueOf(*running), reflect.ValueOf(*next))
}

// changed returns the paths of what differs between two values of one struct
// type: of maps, of their entries.
func changed(p path, before, after reflect.Value) []string {
	var out []string
	for _, s := range settingsOf(before.Type()) {
		at := p.child(s.key)
		a, b := before.FieldByIndex(s.index), after.FieldByIndex(s.index)
		switch {
		case s.key == "agents" || s.key == "default_agent":
		case s.typ.Kind() == reflect.Struct:
			out = append(out, changed(at, a, b)...)
		case s.typ.Kind() == reflect.Map:
			out = append(out, changedEntries(at, a, b)...)
		case !reflect.DeepEqual(a.Interface(), b.Interface()):
			out = append(out, at.String())
		}
	}
	return out
}

func changedEntries(p path, before, after reflect.Value) []string {
	names := keys(before)
	maps.Copy(names, keys(after))
	var out []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		key := reflect.ValueOf(name)
		a, b := before.MapIndex(key), after.MapIndex(key)
		if a.IsValid() && b.IsValid() && reflect.DeepEqual(a.Interface(), b.Interface()) {
			continue
		}
		out = append(out, p.child(name).String())
	}
	return out
}
