package scripted

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"
)

// pattern is a text to be found, or, between slashes, a regular expression.
type pattern struct {
	substring string
	re        *regexp.Regexp
}

// UnmarshalYAML reads a scalar.
func (p *pattern) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.ScalarNode {
		return mistake(node, "want a text, or a /regular expression/")
	}
	source := node.Value
	if len(source) < 3 || source[0] != '/' || source[len(source)-1] != '/' {
		p.substring = source
		return nil
	}
	re, err := regexp.Compile(source[1 : len(source)-1])
	if err != nil {
		return mistake(node, "regular expression %s: %v", source, err)
	}
	p.re = re
	return nil
}

// find reports whether the pattern is in s, and the groups of its match.
func (p *pattern) find(s string) (groups []string, ok bool) {
	if p.re == nil {
		return []string{p.substring}, strings.Contains(s, p.substring)
	}
	groups = p.re.FindStringSubmatch(s)
	return groups, groups != nil
}

// text is a template, compiled where it has actions.
type text struct {
	plain string
	tmpl  *template.Template
}

var functions = template.FuncMap{
	"json": func(v any) (string, error) {
		data, err := encode(v)
		return string(data), err
	},
	"parse": func(s string) (v any, err error) {
		if err := json.Unmarshal([]byte(s), &v); err != nil {
			return nil, fmt.Errorf("%q is not JSON: %w", shorten(s, 80), err)
		}
		return v, nil
	},
	"trim": strings.TrimSpace,
}

// UnmarshalYAML reads a scalar.
func (t *text) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.ScalarNode {
		return mistake(node, "want a text")
	}
	t.plain = node.Value
	if !strings.Contains(node.Value, "{{") {
		return nil
	}
	tmpl, err := template.New("template").Funcs(functions).Option("missingkey=error").Parse(node.Value)
	if err != nil {
		return mistake(node, "%s", strings.TrimPrefix(err.Error(), "template: "))
	}
	t.tmpl = tmpl
	return nil
}

func (t *text) render(v View) (string, error) {
	if t.tmpl == nil {
		return t.plain, nil
	}
	var out strings.Builder
	if err := t.tmpl.Execute(&out, v); err != nil {
		return "", err
	}
	return out.String(), nil
}

// input is a tool's input: YAML whose texts are templates, or one template
// whose result is JSON.
type input struct {
	tree  func(*bytes.Buffer, View) error
	whole *text
}

// UnmarshalYAML reads a mapping, or a scalar.
func (in *input) UnmarshalYAML(node *yaml.Node) error {
	switch node.Kind {
	case yaml.ScalarNode:
		in.whole = new(text)
		return in.whole.UnmarshalYAML(node)
	case yaml.MappingNode:
		// The decoder refuses anchors that hold themselves, or grow without bound.
		var any any
		if err := node.Decode(&any); err != nil {
			return err
		}
		tree, err := compileInput(node)
		in.tree = tree
		return err
	default:
		return mistake(node, "input: want a mapping, or a template of JSON")
	}
}

func (in *input) render(v View) (json.RawMessage, error) {
	if in == nil {
		return json.RawMessage("{}"), nil
	}
	var out bytes.Buffer
	if in.tree != nil {
		err := in.tree(&out, v)
		return out.Bytes(), err
	}
	rendered, err := in.whole.render(v)
	if err != nil {
		return nil, err
	}
	if err := json.Compact(&out, []byte(rendered)); err != nil || out.Bytes()[0] != '{' {
		return nil, fmt.Errorf("input is no JSON object: %s", shorten(rendered, 200))
	}
	return out.Bytes(), nil
}

type renderer = func(*bytes.Buffer, View) error

// compileInput turns YAML into a function that writes it as JSON, keys in the
// order they stand in.
func compileInput(node *yaml.Node) (renderer, error) {
	switch node.Kind {
	case yaml.AliasNode:
		return compileInput(node.Alias)
	case yaml.SequenceNode:
		return compileList(node)
	case yaml.MappingNode:
		return compileMapping(node)
	default:
		return compileScalar(node)
	}
}

func compileScalar(node *yaml.Node) (renderer, error) {
	if tag := node.ShortTag(); tag == "!!str" || tag == "!!timestamp" {
		var t text
		if err := t.UnmarshalYAML(node); err != nil {
			return nil, err
		}
		return func(out *bytes.Buffer, v View) error {
			s, err := t.render(v)
			if err != nil {
				return err
			}
			return write(out, s)
		}, nil
	}
	var value any
	if err := node.Decode(&value); err != nil {
		return nil, err
	}
	data, err := encode(value)
	if err != nil {
		return nil, mistake(node, "%s: JSON cannot say this", node.Value)
	}
	return func(out *bytes.Buffer, _ View) error {
		out.Write(data)
		return nil
	}, nil
}

func compileList(node *yaml.Node) (renderer, error) {
	items := make([]renderer, len(node.Content))
	for i, item := range node.Content {
		var err error
		if items[i], err = compileInput(item); err != nil {
			return nil, err
		}
	}
	return func(out *bytes.Buffer, v View) error {
		out.WriteByte('[')
		for i, item := range items {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := item(out, v); err != nil {
				return err
			}
		}
		out.WriteByte(']')
		return nil
	}, nil
}

func compileMapping(node *yaml.Node) (renderer, error) {
	keys := make([]string, 0, len(node.Content)/2)
	values := make([]renderer, 0, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
			return nil, mistake(key, "input: want plain keys")
		}
		value, err := compileInput(node.Content[i+1])
		if err != nil {
			return nil, err
		}
		keys, values = append(keys, key.Value), append(values, value)
	}
	return func(out *bytes.Buffer, v View) error {
		out.WriteByte('{')
		for i, key := range keys {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := write(out, key); err != nil {
				return err
			}
			out.WriteByte(':')
			if err := values[i](out, v); err != nil {
				return err
			}
		}
		out.WriteByte('}')
		return nil
	}, nil
}

// encode is JSON without escaping of <, > and &, which a model does not do.
func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	err := write(&out, v)
	return out.Bytes(), err
}

func write(out *bytes.Buffer, v any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err
	}
	out.Truncate(out.Len() - 1) // the encoder's newline
	return nil
}

// shorten cuts s to about n bytes.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
