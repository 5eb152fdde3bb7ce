package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// schemaURL names output.schema.json among schemas. It is no address of a file.
const schemaURL = "template:///" + SchemaFile

// compileSchema compiles what output.schema.json says.
func compileSchema(text json.RawMessage) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s is not JSON: %w", SchemaFile, err)
	}
	top, ok := doc.(map[string]any)
	if !ok || top["type"] != "object" {
		return nil, fmt.Errorf(`%s: its top level must be {"type": "object", …}: an agent's output is an object`, SchemaFile)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noOther{})
	if err := compiler.AddResource(schemaURL, doc); err != nil {
		return nil, fmt.Errorf("%s: %w", SchemaFile, err)
	}
	schema, err := compiler.Compile(schemaURL)
	if err != nil {
		return nil, fmt.Errorf("%s is not a valid JSON Schema: %w", SchemaFile, plainSchemaError(err))
	}
	return schema, nil
}

// noOther loads no schema: nothing is fetched because a template says so.
type noOther struct{}

func (noOther) Load(url string) (any, error) {
	return nil, fmt.Errorf("$ref or $schema leads to %s: a schema is one file, put what it needs under $defs", strings.TrimPrefix(url, "template:///"))
}

// plainSchemaError makes the compiler's error a sentence about the file.
func plainSchemaError(err error) error {
	var load *jsonschema.LoadURLError
	if errors.As(err, &load) {
		return load.Err
	}
	var invalid *jsonschema.SchemaValidationError
	if errors.As(err, &invalid) {
		return violations(invalid.Err)
	}
	return errors.New(strings.ReplaceAll(err.Error(), schemaURL, SchemaFile))
}

// validate checks a document against a compiled schema. Its error names the
// places in the document by JSON pointers.
func validate(schema *jsonschema.Schema, text json.RawMessage) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	if err := schema.Validate(doc); err != nil {
		return violations(err)
	}
	return nil
}

// maxViolations is how many violations an error lists.
const maxViolations = 3

// violations makes a list of places and reasons from a validation's tree.
func violations(err error) error {
	var root *jsonschema.ValidationError
	if !errors.As(err, &root) {
		return err
	}
	var found []string
	var walk func(*jsonschema.ValidationError)
	walk = func(v *jsonschema.ValidationError) {
		if len(v.Causes) == 0 {
			// A leaf reads "at '/json/pointer': reason"; '' is the whole document.
			found = append(found, strings.Replace(v.Error(), "at '':", "at '/':", 1))
		}
		for _, cause := range v.Causes {
			walk(cause)
		}
	}
	walk(root)
	if more := len(found) - maxViolations; more > 0 {
		found = append(found[:maxViolations], fmt.Sprintf("and %d more", more))
	}
	return errors.New(strings.Join(found, "; "))
}
