package config

import (
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"claude-runner/agent"
)

// Show writes the whole configuration as YAML: secrets as "[secret]",
// references as they are written, and beside each value that is no default
// where it came from.
func (c *Config) Show(w io.Writer) error {
	s := shower{settings: c.settings}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(s.section(nil, reflect.ValueOf(c).Elem())); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return enc.Close()
}

// shower makes YAML of a configuration.
type shower struct{ settings *settings }

func (s shower) value(p path, v reflect.Value) *yaml.Node {
	switch t := v.Type(); {
	case isLeaf(t):
		return s.leaf(v, s.settings.at(p))
	case t.Kind() == reflect.Pointer:
		if v.IsNil() {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
		}
		return s.value(p, v.Elem())
	case t == backendType:
		return s.backend(p, v)
	case t.Kind() == reflect.Struct:
		return s.section(p, v)
	case t.Kind() == reflect.Map:
		return s.entries(p, v)
	}
	return s.list(p, v)
}

func (s shower) section(p path, v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range settingsOf(v.Type()) {
		s.add(n, p.child(f.key), v.FieldByIndex(f.index))
	}
	return n
}

func (s shower) backend(p path, v reflect.Value) *yaml.Node {
	b := v.Interface().(Backend)
	n := &yaml.Node{Kind: yaml.MappingNode}
	s.add(n, p.child(kindKey), reflect.ValueOf(b.Kind))
	n.Content = append(n.Content, s.section(p, reflect.ValueOf(b.Config).Elem()).Content...)
	return n
}

func (s shower) entries(p path, v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	if v.Len() == 0 {
		n.Style = yaml.FlowStyle
	}
	for _, key := range slices.Sorted(maps.Keys(keys(v))) {
		s.add(n, p.child(key), v.MapIndex(reflect.ValueOf(key)))
	}
	return n
}

func keys(v reflect.Value) map[string]bool {
	out := map[string]bool{}
	for _, k := range v.MapKeys() {
		out[k.String()] = true
	}
	return out
}

// add appends a key, its value, and where that came from.
func (s shower) add(n *yaml.Node, p path, v reflect.Value) {
	key := &yaml.Node{}
	key.SetString(p[len(p)-1])
	value := s.value(p, v)
	if value.Kind == yaml.ScalarNode || value.Style == yaml.FlowStyle {
		value.LineComment = s.settings.own(p).String()
	}
	n.Content = append(n.Content, key, value)
}

func (s shower) list(p path, v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	written := elements(s.settings.at(p), s.settings.origin(p).kind)
	for i := range v.Len() {
		var raw any
		if i < len(written) {
			raw = written[i]
		}
		if e := v.Index(i); isLeaf(e.Type()) {
			n.Content = append(n.Content, s.leaf(e, raw))
		} else {
			n.Style = 0
			n.Content = append(n.Content, s.value(p.element(i), e))
		}
	}
	return n
}

// leaf shows one value, written as raw: nil where it is a default.
func (s shower) leaf(v reflect.Value, raw any) *yaml.Node {
	n := &yaml.Node{}
	if text, ok := raw.(string); ok && hasReference(text) {
		n.SetString(text)
		return n
	}
	var shown any
	switch value := v.Interface().(type) {
	case agent.Secret:
		shown = value.String()
	case agent.Bytes:
		shown = size(value)
	case time.Duration:
		shown = shortDuration(value)
	case slog.Level:
		shown = strings.ToLower(value.String())
	case encoding.TextMarshaler:
		text, err := value.MarshalText()
		if err != nil {
			text = []byte(err.Error())
		}
		shown = string(text)
	case fmt.Stringer:
		shown = value.String()
	default:
		shown = value
	}
	if text, ok := shown.(string); ok {
		n.SetString(text)
	} else if err := n.Encode(shown); err != nil {
		n.SetString(err.Error())
	}
	return n
}

// size writes a number of bytes so that it is read back as the same.
func size(b agent.Bytes) string {
	var again agent.Bytes
	if text := b.String(); again.UnmarshalText([]byte(text)) == nil && again == b {
		return text
	}
	return strconv.FormatInt(int64(b), 10)
}

// shortDuration writes 10m where Go writes 10m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
