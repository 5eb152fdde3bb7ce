package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/agext/levenshtein"

	"claude-runner/agent"
	"claude-runner/session"
)

// taskFields are the fields of POST /task.
var taskFields = []string{"sessionId", "message", "context", "agent", "backend", "env", "async", "webhook"}

// decodeSubmission reads the body of POST /task, and whether its client does not
// want to wait for the end. It takes nothing for granted:
// a field that is misspelt, twice there, or of another type is an error that
// names it. null is the same as no value.
func decodeSubmission(data []byte) (s session.Submission, async bool, err error) {
	if err := checkJSON(data); err != nil {
		return s, async, err
	}
	fields, err := members("the body", data)
	if err != nil {
		return s, async, err
	}
	texts := map[string]*string{
		"sessionId": &s.SessionID, "message": &s.Request.Message, "context": &s.Request.Context,
		"agent": &s.Agent, "backend": &s.Request.Backend,
	}
	for _, f := range fields {
		switch target, isText := texts[f.name]; {
		case isText:
			err = decodeText(f.name, f.value, target)
		case f.name == "async":
			async, err = decodeBool(f.name, f.value)
		case f.name == "env":
			s.Request.Env, err = decodeEnv(f.value)
		case f.name == "webhook":
			s.Request.Webhook, err = decodeWebhook(f.value)
		default:
			err = unknownField(f.name, "field", taskFields)
		}
		if err != nil {
			return s, async, err
		}
	}
	return s, async, nil
}

// decodeWarm reads the body of POST /session/:sessionId/warm, which may be
// empty.
func decodeWarm(data []byte) (agent string, async bool, err error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return "", false, nil
	}
	if err := checkJSON(data); err != nil {
		return "", false, err
	}
	fields, err := members("the body", data)
	if err != nil {
		return "", false, err
	}
	for _, f := range fields {
		switch f.name {
		case "agent":
			err = decodeText(f.name, f.value, &agent)
		case "async":
			async, err = decodeBool(f.name, f.value)
		default:
			err = unknownField(f.name, "field", []string{"agent", "async"})
		}
		if err != nil {
			return "", false, err
		}
	}
	return agent, async, nil
}

// decodeBudget reads the body of PATCH /session/:sessionId. null is no budget of
// the session's own.
func decodeBudget(data []byte) (*float64, error) {
	if err := checkJSON(data); err != nil {
		return nil, err
	}
	fields, err := members("the body", data)
	if err != nil {
		return nil, err
	}
	if len(fields) == 0 {
		return nil, malformed(`the body changes nothing; send a JSON object such as {"budgetUsd": 5}`)
	}
	var budget *float64
	for _, f := range fields {
		if f.name != "budgetUsd" {
			return nil, unknownField(f.name, "field", []string{"budgetUsd"})
		}
		if kind := kindOf(f.value); kind != "a number" && kind != "null" {
			return nil, invalid(f.name, "want a number of dollars or null, got %s", kind)
		}
		if json.Unmarshal(f.value, &budget) != nil {
			return nil, invalid(f.name, "is no number of dollars")
		}
	}
	return budget, nil
}

// checkJSON refuses what is not one JSON value in UTF-8, and says where it
// goes wrong.
func checkJSON(data []byte) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return malformed(`the body is empty; send a JSON object such as {"sessionId": "user-1", "message": "Hello"}`)
	}
	if !utf8.Valid(data) {
		at := 0
		for at < len(data) {
			r, size := utf8.DecodeRune(data[at:])
			if r == utf8.RuneError && size <= 1 {
				break
			}
			at += size
		}
		return malformed("the body is not UTF-8: %s", position(data, at))
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(data, new(json.RawMessage)); errors.As(err, &syntax) {
		return malformed("the body is not JSON: %s: %s", position(data, max(0, int(syntax.Offset)-1)), syntax)
	} else if err != nil {
		return fmt.Errorf("read JSON: %w", err)
	}
	return nil
}

// position says where the byte at offset is, both counted from 1.
func position(data []byte, offset int) string {
	before := data[:min(offset, len(data))]
	line := bytes.Count(before, []byte{'\n'}) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Sprintf("line %d, column %d", line, column)
}

// member is one name and value of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members returns the members of a valid JSON value, which has to be an object
// with no name twice.
func members(what string, object json.RawMessage) ([]member, error) {
	if kind := kindOf(object); kind != "an object" {
		return nil, malformed("%s: want an object, got %s", what, kind)
	}
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil { // the opening brace
		return nil, fmt.Errorf("read object: %w", err)
	}
	var out []member
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, fmt.Errorf("read object: name %v: %w", token, errors.Join(err, io.ErrUnexpectedEOF))
		}
		if seen[name] {
			return nil, invalid(shown(name), "is there twice")
		}
		seen[name] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, fmt.Errorf("read value of %q: %w", shown(name), err)
		}
		out = append(out, member{name, value})
	}
	return out, nil
}

// decodeText reads a string into target.
func decodeText(field string, value json.RawMessage, target *string) error {
	switch kind := kindOf(value); kind {
	case "null":
		return nil
	case "a string":
		return json.Unmarshal(value, target)
	default:
		return invalid(shown(field), "want a string, got %s", kind)
	}
}

func decodeBool(field string, value json.RawMessage) (b bool, err error) {
	switch kind := kindOf(value); kind {
	case "null":
		return false, nil
	case "a boolean":
		err = json.Unmarshal(value, &b)
		return b, err
	default:
		return false, invalid(field, "want true or false, got %s", kind)
	}
}

// decodeEnv reads an object of strings.
func decodeEnv(value json.RawMessage) (map[string]string, error) {
	switch kind := kindOf(value); kind {
	case "null":
		return nil, nil
	case "an object":
	default:
		return nil, invalid("env", "want an object of strings, got %s", kind)
	}
	variables, err := members("env", value)
	if err != nil {
		return nil, err
	}
	env := make(map[string]string, len(variables))
	for _, v := range variables {
		field := "env." + v.name
		if kind := kindOf(v.value); kind != "a string" {
			return nil, invalid(shown(field), "want a string, got %s", kind)
		}
		var text string
		if err := decodeText(field, v.value, &text); err != nil {
			return nil, err
		}
		env[v.name] = text
	}
	return env, nil
}

// decodeWebhook reads an object of a URL and a secret.
func decodeWebhook(value json.RawMessage) (*agent.Webhook, error) {
	if kindOf(value) == "null" {
		return nil, nil
	}
	fields, err := members("webhook", value)
	if err != nil {
		return nil, err
	}
	var url, secret string
	for _, f := range fields {
		field := "webhook." + f.name
		switch f.name {
		case "url":
			err = decodeText(field, f.value, &url)
		case "secret":
			err = decodeText(field, f.value, &secret)
		default:
			err = unknownField(field, "field", []string{"webhook.url", "webhook.secret"})
		}
		if err != nil {
			return nil, err
		}
	}
	return &agent.Webhook{URL: url, Secret: agent.Secret(secret)}, nil
}

// kindOf says what a valid JSON value is.
func kindOf(value json.RawMessage) string {
	switch bytes.TrimSpace(value)[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

// unknownField refuses a name that is not among known, and guesses which was
// meant.
func unknownField(name, what string, known []string) error {
	const far = 3 // edits that no slip of the finger makes
	hint, least := "there are "+strings.Join(known, ", "), far
	for _, k := range known {
		if len(name) > 2*len(k) {
			continue // not worth the comparison, and name may be huge
		}
		if d := levenshtein.Distance(strings.ToLower(name), strings.ToLower(k), nil); d < least {
			hint, least = fmt.Sprintf("did you mean %s?", k), d
		}
	}
	return invalid(shown(name), "there is no such %s; %s", what, hint)
}
