package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"claude-runner/agent"
	"claude-runner/backends"
)

// decoder turns the merged settings into typed values. It notes every problem
// and goes on: a value that will not do leaves the default in place.
type decoder struct {
	*report
	resolver
	kinds map[string]backends.Kind
	names []string // of kinds, in their order
}

// config fills cfg, which holds the defaults.
func (d *decoder) config(cfg *Config) {
	d.section(nil, reflect.ValueOf(cfg).Elem(), d.settings.tree.Raw())
}

// value decodes what is written at p into v. nil leaves v as it is.
func (d *decoder) value(p path, v reflect.Value, written any) {
	t := v.Type()
	switch {
	case written == nil:
	case isLeaf(t):
		d.leaf(p, v, written)
	case t.Kind() == reflect.Pointer:
		target := reflect.New(t.Elem())
		d.value(p, target.Elem(), written)
		v.Set(target)
	case t.Kind() == reflect.Slice:
		d.list(p, v, written)
	default:
		tree, ok := written.(map[string]any)
		switch {
		case !ok:
			d.mismatch(p, t, written)
		case t.Kind() == reflect.Map:
			d.entries(p, v, tree)
		default:
			d.section(p, v, tree)
		}
	}
}

// section decodes keys into the fields of a struct.
func (d *decoder) section(p path, v reflect.Value, tree map[string]any) {
	t := v.Type()
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		if s, ok := find(t, key); ok {
			d.value(p.child(key), v.FieldByIndex(s.index), tree[key])
			continue
		}
		d.unknown(p.child(key), t, keysOf(t))
	}
}

// unknown notes a key that the struct type t does not have.
func (d *decoder) unknown(p path, t reflect.Type, known []string) {
	key := p[len(p)-1]
	hint := suggest(key, known)
	if nearest(key, known) == "" {
		if elsewhere := locate(t, key); elsewhere != "" {
			hint = elsewhere
		}
	}
	d.errorf(p, "unknown key: %s", hint)
}

// entries decodes the keys of a map, each into a value with its defaults.
func (d *decoder) entries(p path, v reflect.Value, tree map[string]any) {
	if len(tree) == 0 && v.IsNil() {
		return // none is none, written or not
	}
	out := reflect.MakeMap(v.Type())
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		at := p.child(key)
		elem := reflect.New(v.Type().Elem()).Elem()
		switch elem.Type() {
		case backendType:
			elem.Set(reflect.ValueOf(d.backend(at, tree[key])))
		case profileType:
			profile := agent.DefaultProfile()
			profile.Name = key
			elem.Set(reflect.ValueOf(profile))
			d.value(at, elem, tree[key])
		default:
			d.value(at, elem, tree[key])
		}
		out.SetMapIndex(reflect.ValueOf(key), elem)
	}
	v.Set(out)
}

// backend decodes one entry of the backends: its kind, and with it the rest.
func (d *decoder) backend(p path, written any) Backend {
	tree, ok := written.(map[string]any)
	if !ok && written != nil {
		d.mismatch(p, backendType, written)
		return Backend{}
	}
	var b Backend
	d.value(p.child(kindKey), reflect.ValueOf(&b.Kind).Elem(), tree[kindKey])
	kind, known := d.kinds[b.Kind]
	if !known {
		if b.Kind == "" {
			d.errorf(p, "its kind is missing: write kind: %s", d.likelyKind(p[len(p)-1]))
		} else {
			d.errorf(p.child(kindKey), "no kind of backend is called %s: %s", d.settings.quote(p.child(kindKey), b.Kind), suggest(b.Kind, d.names))
		}
		return b
	}
	b.Config = kind.NewConfig()
	v := reflect.ValueOf(b.Config).Elem()
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		if s, ok := find(v.Type(), key); ok {
			d.value(p.child(key), v.FieldByIndex(s.index), tree[key])
		} else if key != kindKey {
			d.unknown(p.child(key), v.Type(), append([]string{kindKey}, keysOf(v.Type())...))
		}
	}
	return b
}

// likelyKind is what to write as the kind of a backend of that name.
func (d *decoder) likelyKind(name string) string {
	if kind := nearest(name, d.names); kind != "" {
		return kind
	}
	return oneOf(d.names)
}

// list decodes a list. One text stands for a list of it; of the environment
// and of flags, for a list of the parts between its commas.
func (d *decoder) list(p path, v reflect.Value, written any) {
	if _, isMap := written.(map[string]any); isMap {
		d.mismatch(p, v.Type(), written)
		return
	}
	parts := elements(written, d.settings.origin(p).kind)
	if len(parts) == 0 && v.IsNil() {
		return // none is none, written or not
	}
	out := reflect.MakeSlice(v.Type(), len(parts), len(parts))
	for i, part := range parts {
		at := d.settings.element(p, i)
		if part == nil {
			d.errorf(at, "an element of the list is empty: remove it")
			continue
		}
		d.value(at, out.Index(i), part)
	}
	v.Set(out)
}

// mismatch notes a value of the wrong shape.
func (d *decoder) mismatch(p path, t reflect.Type, written any) {
	var got string
	switch w := written.(type) {
	case string:
		got = "a single value"
		if !holdsSecret(t) {
			got = quote(w)
		}
	case []any:
		got = "a list"
	default:
		got = "a section"
	}
	d.errorf(p, "%s is not %s", got, d.shape(t))
}

// shape says what values of a type look like.
func (d *decoder) shape(t reflect.Type) string {
	switch {
	case t == backendType:
		return "a section with a kind: write one such as {kind: docker}"
	case t == profileType:
		return "a section of settings: write one such as {template: ./agent}"
	case isLeaf(t):
		return leafForm(t)
	}
	switch t.Kind() {
	case reflect.Struct:
		return "a section: its keys are " + strings.Join(keysOf(t), ", ")
	case reflect.Map:
		if isLeaf(t.Elem()) {
			return "a section of names: write one such as {NAME: value}"
		}
		return "a section of names, each of which is " + d.shape(t.Elem())
	case reflect.Pointer:
		return d.shape(t.Elem())
	}
	return "a list: [a, b]"
}
