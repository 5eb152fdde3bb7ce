package claude_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"claude-runner/agent"
	"claude-runner/agent/claude"
)

// given returns the schema that the CLI is given for a template's.
func given(schema string) json.RawMessage {
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	l := agent.Launch{Template: &agent.Template{System: "You are a test.", Schema: json.RawMessage(schema)}}
	c := claude.New(claude.Options{}).Open(l, stdin, stdout)
	line, _ := bufio.NewReader(in).ReadBytes('\n')
	_ = out.Close()
	_ = in.Close()
	var m struct {
		Request struct {
			Subtype, SystemPrompt string
			JSONSchema            json.RawMessage
		}
	}
	if json.Unmarshal(line, &m) != nil || m.Request.Subtype != "initialize" || m.Request.SystemPrompt != "You are a test." {
		panic(string(line))
	}
	if err := c.Close(context.Background()); err != nil {
		panic(err)
	}
	return m.Request.JSONSchema
}

// odd are schemas that the CLI would drop whole, as they are.
var odd = map[string]struct{ schema, given string }{
	"draft's name":      {`{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}`, `{"type": "object"}`},
	"formats":           {`{"type": "object", "properties": {"format": {"type": "string", "format": "email"}}}`, `{"type": "object", "properties": {"format": {"type": "string"}}}`},
	"own keywords":      {`{"type": "object", "x-order": ["a"], "deprecated": false}`, `{"type": "object"}`},
	"newer keywords":    {`{"type": "object", "unevaluatedProperties": false, "dependentRequired": {"a": ["b"]}}`, `{"type": "object"}`},
	"tuple":             {`{"type": "object", "properties": {"a": {"type": "array", "prefixItems": [{"type": "string"}], "items": false}}}`, `{"type": "object", "properties": {"a": {"type": "array"}}}`},
	"min contains":      {`{"type": "object", "properties": {"a": {"contains": {"const": 1}, "minContains": 0}}}`, `{"type": "object", "properties": {"a": {}}}`},
	"choice at the top": {`{"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}`, `{"type": "object"}`},
	"choice below": {`{"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}, {"type": "null"}]}}}`,
		`{"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}, {"type": "null"}]}}}`},
	"choice by format": {`{"type": "object", "properties": {"a": {"oneOf": [{"type": "string", "format": "email"}, {"type": "string"}]}}}`,
		`{"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "string"}]}}}`},
	"choice of references": {`{"type": "object", "$defs": {"m": {"type": "string", "format": "email"}}, "properties": {"a": {"oneOf": [{"$ref": "#/$defs/m"}, {"type": "null"}]}}}`,
		`{"type": "object", "$defs": {"m": {"type": "string"}}, "properties": {"a": {"anyOf": [{"$ref": "#/$defs/m"}, {"type": "null"}]}}}`},
	"not a format": {`{"type": "object", "properties": {"a": {"not": {"format": "email"}}, "b": {"not": {"type": "null"}}}}`,
		`{"type": "object", "properties": {"a": {}, "b": {"not": {"type": "null"}}}}`},
	"condition": {`{"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}`, `{"type": "object"}`},
	"patterns": {`{"type": "object", "properties": {"a": {"pattern": "^[a-z\\-_.]+@(?:x|y){1,3}$"}, "b": {"pattern": "(?i)a"}, "c": {"pattern": "\\pL"}, "d": {"pattern": "\\Aa"}}}`,
		`{"type": "object", "properties": {"a": {"pattern": "^[a-z\\-_.]+@(?:x|y){1,3}$"}, "b": {}, "c": {}, "d": {}}}`},
	"pattern of names": {`{"type": "object", "patternProperties": {"(?i)x": {"type": "string"}, "^y": {}}, "additionalProperties": false}`,
		`{"type": "object", "patternProperties": {"^y": {}}}`},
	"long numbers": {`{"type": "object", "properties": {"a": {"enum": [12345678901234567890, 1.10]}}}`,
		`{"type": "object", "properties": {"a": {"enum": [12345678901234567890, 1.10]}}}`},
	"anchors": {`{"type": "object", "$defs": {"x": {"$anchor": "here", "type": "string"}}, "properties": {"a": {"$ref": "#here"}, "b": {"$ref": "#/$defs/x"}, "c": {"$ref": "#"}}}`,
		`{"type": "object", "$defs": {"x": {"type": "string"}}, "properties": {"a": {}, "b": {"$ref": "#/$defs/x"}, "c": {"$ref": "#"}}}`},
}

func TestSchemaIsGivenAsTheCLITakesIt(t *testing.T) {
	for name, c := range odd {
		t.Run(name, func(t *testing.T) {
			got := given(c.schema)
			if diff := cmp.Diff(parse(t, []byte(c.given)), parse(t, got)); diff != "" {
				t.Errorf("%s\n%s", got, diff)
			}
		})
	}
}

func parse(t *testing.T, text []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The CLI offers the tool for the output only for a schema that it takes.
func TestSchemaIsTakenByTheCLI(t *testing.T) {
	server, url := serve(t, builtin(t, "structured-missing"))
	properties := map[string]json.RawMessage{}
	for name, c := range odd {
		properties[name] = given(c.schema)
	}
	// All in one: the CLI drops the whole for any of its parts.
	for _, name := range []string{"anchors", "choice of references"} { // their references begin at the top
		delete(properties, name)
	}
	all, err := json.Marshal(map[string]any{"type": "object", "properties": properties})
	if err != nil {
		t.Fatal(err)
	}
	for _, schema := range []string{string(all), odd["anchors"].schema, odd["choice of references"].schema} {
		l := newLaunch(t, url)
		l.Template = &agent.Template{System: "You are a test.", Schema: json.RawMessage(schema)}
		p := start(t, l)
		p.must(p.say("hello"))
		p.end()
		requests := server.Requests()
		if last := requests[len(requests)-1]; !slices.Contains(last.Tools, "StructuredOutput") {
			t.Errorf("the CLI does not take the schema that it is given for %s", schema)
		}
	}
}

// What a schema allows, the one that the CLI is given allows too.
func TestSchemaIsOnlyLoosened(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		schema := anySchema(t, 3)
		schema["type"] = "object"
		text, err := json.Marshal(schema)
		if err != nil {
			t.Fatal(err)
		}
		strict, err := compile(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		loose, err := compile(given(string(text)))
		if err != nil {
			t.Fatalf("%s is given as %s: %v", text, given(string(text)), err)
		}
		for range 10 {
			value := map[string]any{}
			for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom(names), func(s string) string { return s }).Draw(t, "names") {
				value[name] = rapid.SampledFrom(values).Draw(t, "value")
			}
			if strict.Validate(value) == nil && loose.Validate(value) != nil {
				t.Fatalf("%v is allowed by %s, but not by %s", value, text, given(string(text)))
			}
		}
	})
}

func compile(text []byte) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("test:///schema", doc); err != nil {
		return nil, err
	}
	return c.Compile("test:///schema")
}

var (
	names  = []string{"a", "b", "x1", "X2", "format"}
	values = []any{nil, true, "a", "x", "me@example.com", 1.0, 2.5, []any{}, []any{"a"}, []any{1.0, "a"}, map[string]any{}, map[string]any{"a": "x"}}
)

func anySchema(t *rapid.T, depth int) map[string]any {
	schema := map[string]any{}
	for range rapid.IntRange(0, 4).Draw(t, "keywords") {
		if depth == 0 || rapid.Bool().Draw(t, "leaf") {
			leaf := rapid.SampledFrom([]struct {
				name  string
				value any
			}{
				{"type", "string"}, {"type", []any{"object", "array", "null"}}, {"format", "email"}, {"const", "x"}, {"enum", []any{"a", 1.0}},
				{"minLength", 2}, {"pattern", "^x"}, {"pattern", "(?i)A"}, {"required", []any{"a"}}, {"x-own", 1}, {"minContains", 0},
				{"minItems", 1}, {"uniqueItems", true}, {"maxProperties", 2}, {"additionalProperties", false}, {"unevaluatedProperties", false},
				{"dependentRequired", map[string]any{"a": []any{"b"}}}, {"minimum", 2},
			}).Draw(t, "leaf keyword")
			schema[leaf.name] = leaf.value
			continue
		}
		switch name := rapid.SampledFrom([]string{"properties", "patternProperties", "not", "oneOf", "anyOf", "allOf", "items", "prefixItems", "contains", "if", "then", "else", "propertyNames", "additionalProperties"}).Draw(t, "keyword"); name {
		case "properties":
			schema[name] = map[string]any{rapid.SampledFrom(names).Draw(t, "name"): anySchema(t, depth-1)}
		case "patternProperties":
			schema[name] = map[string]any{rapid.SampledFrom([]string{"^x", "(?i)x", "[a-z]"}).Draw(t, "name pattern"): anySchema(t, depth-1)}
		case "oneOf", "anyOf", "allOf", "prefixItems":
			schema[name] = []any{anySchema(t, depth-1), anySchema(t, depth-1)}
		default:
			schema[name] = anySchema(t, depth-1)
		}
	}
	return schema
}
