package api

import (
	"bytes"
	_ "embed" // for the page's template
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed docs.html
var docsTemplate string

// renderDocs makes a page of an OpenAPI description, as far as this one uses
// OpenAPI.
func renderDocs(description []byte) ([]byte, error) {
	var d document
	if err := yaml.Unmarshal(description, &d); err != nil {
		return nil, fmt.Errorf("read API description: %w", err)
	}
	t, err := template.New("docs").Funcs(template.FuncMap{
		"prose": prose, "paragraphs": paragraphs, "code": exampleText, "lower": strings.ToLower,
	}).Parse(docsTemplate)
	if err != nil {
		return nil, fmt.Errorf("read template of /docs: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, &d); err != nil {
		return nil, fmt.Errorf("render /docs: %w", err)
	}
	return out.Bytes(), nil
}

// document is an OpenAPI description, in its own order.
type document struct {
	Info struct {
		Title       string
		Description string
	}
	Tags []struct {
		Name        string
		Description string
	}
	Paths      ordered[pathItem]
	Components struct {
		Parameters ordered[parameter]
		Responses  ordered[response]
		Headers    ordered[header]
		Schemas    ordered[schema]
	}
}

type pathItem struct {
	Parameters               []parameter
	Get, Post, Patch, Delete *operation
}

type operation struct {
	ID          string `yaml:"operationId"`
	Tags        []string
	Summary     string
	Description string
	Parameters  []parameter
	RequestBody *struct{ Content ordered[media] } `yaml:"requestBody"`
	Responses   ordered[response]
	Method      string `yaml:"-"`
	Path        string `yaml:"-"`
}

type parameter struct {
	Ref         string `yaml:"$ref"`
	Name        string
	In          string
	Required    bool
	Description string
	Schema      schema
}

type response struct {
	Ref         string `yaml:"$ref"`
	Description string
	Headers     ordered[header]
	Content     ordered[media]
}

type header struct {
	Ref         string `yaml:"$ref"`
	Description string
}

type media struct {
	Schema  schema
	Example yaml.Node
}

type schema struct {
	Ref         string `yaml:"$ref"`
	Type        string
	Format      string
	Description string
	Nullable    bool
	Enum        []string
	Default     string
	Minimum     string
	Maximum     string
	Required    []string
	Properties  ordered[schema]
	Items       *schema
	OneOf       []schema `yaml:"oneOf"`
}

// ordered is a map in the order of its file.
type ordered[T any] []named[T]

type named[T any] struct {
	Name  string
	Value T
}

// UnmarshalYAML reads a mapping.
func (o *ordered[T]) UnmarshalYAML(n *yaml.Node) error {
	for i := 0; i+1 < len(n.Content); i += 2 {
		var value T
		if err := n.Content[i+1].Decode(&value); err != nil {
			return err
		}
		*o = append(*o, named[T]{n.Content[i].Value, value})
	}
	return nil
}

func (o ordered[T]) get(ref string) (T, error) {
	for _, e := range o {
		if e.Name == path.Base(ref) {
			return e.Value, nil
		}
	}
	var none T
	return none, fmt.Errorf("there is no component %s", ref)
}

// Operations returns the operations with a tag.
func (d *document) Operations(tag string) ([]*operation, error) {
	var out []*operation
	for _, p := range d.Paths {
		for _, m := range []struct {
			method string
			op     *operation
		}{{http.MethodPost, p.Value.Post}, {http.MethodGet, p.Value.Get}, {http.MethodPatch, p.Value.Patch}, {http.MethodDelete, p.Value.Delete}} {
			if m.op == nil || len(m.op.Tags) != 1 || m.op.Tags[0] != tag {
				continue
			}
			op := *m.op
			op.Method, op.Path = m.method, p.Name
			op.Parameters = nil
			for _, list := range [][]parameter{p.Value.Parameters, m.op.Parameters} {
				for _, one := range list {
					one, err := d.parameter(one)
					if err != nil {
						return nil, err
					}
					op.Parameters = append(op.Parameters, one)
				}
			}
			out = append(out, &op)
		}
	}
	return out, nil
}

func (d *document) parameter(p parameter) (parameter, error) {
	if p.Ref == "" {
		return p, nil
	}
	return d.Components.Parameters.get(p.Ref)
}

// Response returns r, or what it refers to.
func (d *document) Response(r response) (response, error) {
	if r.Ref == "" {
		return r, nil
	}
	return d.Components.Responses.get(r.Ref)
}

// Resolve returns s, or what it refers to.
func (d *document) Resolve(s schema) (schema, error) {
	if s.Ref == "" {
		return s, nil
	}
	return d.Components.Schemas.get(s.Ref)
}

// Link returns the name of the schema that s, or its items, refers to, or "".
func (s schema) Link() string {
	switch {
	case s.Ref != "":
		return path.Base(s.Ref)
	case s.Items != nil:
		return s.Items.Link()
	}
	return ""
}

// Kind says what s is, in front of its Link.
func (s schema) Kind() string {
	switch {
	case s.Ref != "":
		return ""
	case s.Items != nil && s.Items.Ref != "":
		return "array of "
	case s.Items != nil:
		return "array of " + s.Items.Kind()
	case s.Type == "":
		return "any JSON"
	case s.Nullable:
		return s.Type + " or null"
	case s.Format == "date-time":
		return "time"
	}
	return s.Type
}

// Bounds says which values s takes, beside its type.
func (s schema) Bounds() string {
	var out []string
	if len(s.Enum) > 0 {
		out = append(out, "`"+strings.Join(s.Enum, "`, `")+"`")
	}
	switch {
	case s.Minimum != "" && s.Maximum != "":
		out = append(out, s.Minimum+" to "+s.Maximum)
	case s.Minimum != "":
		out = append(out, "from "+s.Minimum)
	}
	if s.Default != "" {
		out = append(out, "default `"+s.Default+"`")
	}
	return strings.Join(out, "; ")
}

// Needs reports whether a value of s must have a field.
func (s schema) Needs(field string) bool {
	for _, r := range s.Required {
		if r == field {
			return true
		}
	}
	return false
}

// span is a piece of text.
type span struct {
	Code bool
	Text string
}

// prose splits text at its backquotes, which surround code.
func prose(text string) []span {
	var out []span
	for i, piece := range strings.Split(text, "`") {
		if piece != "" {
			out = append(out, span{i%2 == 1, piece})
		}
	}
	return out
}

func paragraphs(text string) []string { return strings.Split(strings.TrimSpace(text), "\n\n") }

// exampleText returns an example: text as it is, anything else as JSON.
func exampleText(n yaml.Node) (string, error) {
	if n.Kind == 0 {
		return "", nil
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		return n.Value, nil
	}
	compact, err := jsonOf(&n)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, []byte(compact), "", "  "); err != nil {
		return "", fmt.Errorf("example in line %d: %w", n.Line, err)
	}
	return out.String(), nil
}

// jsonOf returns n as JSON, its fields in their order.
func jsonOf(n *yaml.Node) (string, error) {
	var parts []string
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			value, err := jsonOf(n.Content[i+1])
			if err != nil {
				return "", err
			}
			parts = append(parts, strconv.Quote(n.Content[i].Value)+":"+value)
		}
		return "{" + strings.Join(parts, ",") + "}", nil
	case yaml.SequenceNode:
		for _, item := range n.Content {
			value, err := jsonOf(item)
			if err != nil {
				return "", err
			}
			parts = append(parts, value)
		}
		return "[" + strings.Join(parts, ",") + "]", nil
	}
	var value any
	if err := n.Decode(&value); err != nil {
		return "", fmt.Errorf("example in line %d: %w", n.Line, err)
	}
	data, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("example in line %d: %w", n.Line, err)
	}
	return string(data), nil
}
