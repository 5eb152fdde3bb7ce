package claude

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
)

// plainSchema returns what of a JSON Schema the CLI can be given. It drops a
// whole schema, without a word, for one keyword that it does not know: those
// later than draft 7, "$schema" with another draft's name, "format" with
// whatever format, and any of a user's own. The Messages API for its part
// takes no choice at the top level.
//
// What is left accepts all that the schema accepts, and more; the runner
// validates by the schema itself.
func plainSchema(schema json.RawMessage) any {
	var doc map[string]any
	decoder := json.NewDecoder(bytes.NewReader(schema))
	decoder.UseNumber() // a float would make another number of a long one
	if decoder.Decode(&doc) != nil {
		return map[string]any{"type": "object"}
	}
	plain := plainObject(doc)
	for _, name := range []string{"allOf", "anyOf", "oneOf", "$ref"} {
		delete(plain, name)
	}
	return plain
}

// What a keyword's value is, for the keywords that are kept.
const (
	isValue      = iota // nothing that has keywords
	isSchema            // a schema
	isSchemaMap         // names of the user's, each with a schema
	isSchemaList        // schemas
	isItems             // a schema or schemas
)

var plainKeywords = map[string]int{
	"type": isValue, "title": isValue, "description": isValue, "default": isValue, "examples": isValue, "const": isValue,
	"enum": isValue, "required": isValue, "$ref": isValue,
	"minLength": isValue, "maxLength": isValue, "pattern": isValue,
	"minimum": isValue, "maximum": isValue, "exclusiveMinimum": isValue, "exclusiveMaximum": isValue, "multipleOf": isValue,
	"minItems": isValue, "maxItems": isValue, "uniqueItems": isValue, "minProperties": isValue, "maxProperties": isValue,
	"properties": isSchemaMap, "patternProperties": isSchemaMap, "$defs": isSchemaMap, "definitions": isSchemaMap,
	"additionalProperties": isSchema, "propertyNames": isSchema, "contains": isSchema, "not": isSchema,
	"allOf": isSchemaList, "anyOf": isSchemaList, "oneOf": isSchemaList, "items": isItems,
}

func plainOf(schema any) any {
	if object, ok := schema.(map[string]any); ok {
		return plainObject(object)
	}
	return schema // true or false
}

func plainObject(schema map[string]any) map[string]any {
	plain := map[string]any{}
	for name, value := range schema {
		kind, known := plainKeywords[name]
		if !known || !plainValue(name, value) {
			continue
		}
		switch value := value.(type) {
		case map[string]any:
			switch kind {
			case isSchemaMap:
				plain[name] = plainMap(name, value)
			case isSchema, isItems:
				plain[name] = plainObject(value)
			default:
				plain[name] = value
			}
		case []any:
			if kind == isSchemaList || kind == isItems {
				plain[name] = plainList(value)
			} else {
				plain[name] = value
			}
		default:
			plain[name] = value
		}
	}
	loosen(schema, plain)
	return plain
}

// loosen changes what would be stricter than the schema, since something that it
// goes by was left out.
func loosen(schema, plain map[string]any) {
	if _, tuple := schema["prefixItems"]; tuple {
		delete(plain, "items") // speaks of what comes behind the tuple
	}
	if _, ok := schema["minContains"]; ok {
		delete(plain, "contains") // zero may do
	}
	if patterns, ok := schema["patternProperties"].(map[string]any); ok && len(patterns) != len(plain["patternProperties"].(map[string]any)) {
		delete(plain, "additionalProperties") // would count the pattern's
	}
	if not, ok := schema["not"]; ok && !isPlain(not) {
		delete(plain, "not")
	}
	if one, ok := schema["oneOf"]; ok && !isPlain(one) {
		// Of looser schemas more than one may hold.
		if _, ok := plain["anyOf"]; !ok {
			plain["anyOf"] = plain["oneOf"]
		}
		delete(plain, "oneOf")
	}
}

// isPlain reports whether a schema, or a list of them, is the same without what
// is left out. It does not look where a $ref leads.
func isPlain(schema any) bool {
	switch schema := schema.(type) {
	case []any:
		for _, one := range schema {
			if !isPlain(one) {
				return false
			}
		}
	case map[string]any:
		all, _ := json.Marshal(schema)
		plain, _ := json.Marshal(plainObject(schema))
		return bytes.Equal(all, plain) && !bytes.Contains(all, []byte(`"$ref"`))
	}
	return true
}

func plainMap(name string, schemas map[string]any) map[string]any {
	plain := map[string]any{}
	for key, schema := range schemas {
		if name != "patternProperties" || isPlainPattern(key) {
			plain[key] = plainOf(schema)
		}
	}
	return plain
}

func plainList(schemas []any) []any {
	plain := make([]any, len(schemas))
	for i, schema := range schemas {
		plain[i] = plainOf(schema)
	}
	return plain
}

// plainValue tells values that the CLI takes from those it does not.
func plainValue(name string, value any) bool {
	switch name {
	case "pattern":
		text, ok := value.(string)
		return ok && isPlainPattern(text)
	case "$ref":
		text, ok := value.(string)
		return ok && plainRef.MatchString(text)
	case "enum", "required":
		list, ok := value.([]any)
		return ok && (len(list) > 0 || name == "required") && unique(list)
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum":
		_, ok := value.(json.Number) // draft 4 has true and false
		return ok
	}
	return true
}

func unique(list []any) bool {
	seen := map[string]bool{}
	for _, value := range list {
		text, _ := json.Marshal(value)
		if seen[string(text)] {
			return false
		}
		seen[string(text)] = true
	}
	return true
}

// plainRef is a reference to what is still there.
var plainRef = regexp.MustCompile(`^#(?:/(?:\$defs|definitions)/[^/%]+)?$`)

// plainPattern is the part of regular expressions that Go and JavaScript's
// strict mode read alike.
var plainPattern = regexp.MustCompile(`^(?:[A-Za-z0-9 _@:,;<>=!#%&~"'/|^$.*+?-]|\\[dDwWsS.*+?^$|(){}\[\]\\/]|\((?:\?:)?|\)|\{[0-9]+(?:,[0-9]*)?\}|\[\^?(?:[A-Za-z0-9 _@:,;<>=!#%&~"'/|$.*+?(){}-]|\\[dDwWsS\\\]^-])+\])*$`)

func isPlainPattern(pattern string) bool {
	return plainPattern.MatchString(pattern) && !strings.Contains(strings.ReplaceAll(pattern, "(?:", ""), "(?")
}
