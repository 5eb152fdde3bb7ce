package config

import (
	"bytes"
	_ "embed"
	"fmt"
	"text/template"

	"claude-runner/agent"
)

//go:embed example.yaml.tmpl
var exampleText string

// Example is a commented configuration of one agent.
type Example struct {
	Agent    string             // its name
	Template string             // its template's folder, as the file shall say it; "": the one in the binary
	Env      map[string]string  // its environment; may be empty
	Egress   []agent.EgressRule // what its tools may call; may be empty
}

// YAML returns the file's content.
func (e Example) YAML() ([]byte, error) {
	t, err := template.New("example").Funcs(template.FuncMap{"quote": quote}).Parse(exampleText)
	if err != nil {
		return nil, fmt.Errorf("example configuration: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, e); err != nil {
		return nil, fmt.Errorf("example configuration: %w", err)
	}
	return out.Bytes(), nil
}
