package scripted

import (
	"embed"
	"fmt"
	"os"
	"path"
	"strings"
)

// Script is a checked list of rules. It is immutable: any number of servers
// may share it.
type Script struct {
	doc document
}

// Load reads a script from a YAML file.
func Load(file string) (*Script, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read script: %w", err)
	}
	script, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("script %s: %w", file, err)
	}
	return script, nil
}

// Parse reads a script from YAML. Its error names every mistake with its line.
func Parse(data []byte) (*Script, error) {
	doc, err := decode(data)
	if err != nil {
		return nil, err
	}
	return &Script{doc: doc}, nil
}

// MustParse is Parse for scripts that are part of a program. It panics on a
// mistake.
func MustParse(yaml string) *Script {
	script, err := Parse([]byte(yaml))
	if err != nil {
		panic("scripted: " + err.Error())
	}
	return script
}

//go:embed scripts/*.yaml
var library embed.FS

// Builtin returns a script of the package's own library (see Builtins).
func Builtin(name string) (*Script, error) {
	data, err := library.ReadFile(path.Join("scripts", name+".yaml"))
	if err != nil {
		return nil, fmt.Errorf("no script %q in the library: it has %s", name, strings.Join(Builtins(), ", "))
	}
	return Parse(data)
}

// Builtins returns the names of the library's scripts, sorted.
func Builtins() []string {
	entries, err := library.ReadDir("scripts")
	if err != nil {
		panic("scripted: embedded scripts: " + err.Error())
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = strings.TrimSuffix(entry.Name(), ".yaml")
	}
	return names
}
