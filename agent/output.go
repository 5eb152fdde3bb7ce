package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrNoOutput means that an answer holds no output of the form that its
// template asks for.
var ErrNoOutput = errors.New("the agent gave no structured output")

// ParseOutput returns the output that a turn's result holds, by what the
// template asks for:
//
//   - A schema: what the agent gave by it (Result.Structured), and where it gave
//     none, the last JSON object of its answer's text. It is validated here, and
//     only what is valid is an output; else output is nil, and the error names
//     the places that will not do by JSON pointers.
//   - OUTPUT.md alone: the last JSON object of the answer's text, fenced or bare;
//     an object that another value holds counts as a part of it, but an array's
//     objects count each by itself. Where there is none, output is
//     {"response": text}, with an error that says so.
//   - Neither: {"response": text}.
//
// The error is for people to read beside the text; the turn itself has not
// failed. It is or wraps ErrNoOutput where nothing was given at all.
func (t *Template) ParseOutput(r Result) (output json.RawMessage, err error) {
	switch {
	case t.Schema != nil:
		return t.structured(r)
	case t.Output == "":
		return response(r.Text), nil
	}
	if output := lastObject(r.Text); output != nil {
		return output, nil
	}
	return response(r.Text), fmt.Errorf("%w: there is no JSON object in its answer, which %s asks for", ErrNoOutput, OutputFile)
}

func (t *Template) structured(r Result) (json.RawMessage, error) {
	schema := t.schema
	if schema == nil {
		var err error
		if schema, err = compileSchema(t.Schema); err != nil {
			return nil, err
		}
	}
	output, from := r.Structured, "structured output"
	if isNull(output) {
		output, from = lastObject(r.Text), "answer's last JSON object"
	}
	if output == nil {
		return nil, fmt.Errorf("%w, and there is no JSON object in its answer: %s asks for one", ErrNoOutput, SchemaFile)
	}
	if err := validate(schema, output); err != nil {
		return nil, fmt.Errorf("the %s is not what %s asks for: %w", from, SchemaFile, err)
	}
	return output, nil
}

func isNull(text json.RawMessage) bool {
	text = bytes.TrimSpace(text)
	return len(text) == 0 || bytes.Equal(text, []byte("null"))
}

func response(text string) json.RawMessage {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(map[string]string{"response": text}); err != nil {
		panic(err) // a map of strings always encodes
	}
	return bytes.TrimSpace(b.Bytes())
}
