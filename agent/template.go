package agent

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The files of a template that mean something to the runner.
const (
	SystemFile = "AGENTS.md"
	OutputFile = "OUTPUT.md"
	SchemaFile = "output.schema.json"
)

// maxTextFile bounds each of the files above, in bytes.
const maxTextFile = 1 << 20

// Template is a folder that an agent is made from: AGENTS.md (its system
// prompt), OUTPUT.md (its answer's format in words), an optional
// output.schema.json, tools/ and whatever else the agent should find.
type Template struct {
	Dir    string          // where it came from; "" for the one in the binary
	System string          // AGENTS.md
	Output string          // OUTPUT.md
	Schema json.RawMessage // output.schema.json; nil without one

	schema *jsonschema.Schema // Schema, compiled
}

//go:embed default
var embedded embed.FS

// LoadTemplate reads the template in the folder dir, or the one in the binary
// where dir is empty. Its error says what in the folder will not do: AGENTS.md
// is missing or empty; output.schema.json is no JSON Schema of an object, or
// refers to another file; a link leads out of the folder; something is neither
// file, folder nor link; there is more than MaxTemplateFiles and
// MaxTemplateBytes allow.
func LoadTemplate(dir string) (*Template, error) {
	t := &Template{Dir: dir}
	files, closeFiles, err := t.open()
	if err != nil {
		return nil, err
	}
	defer closeFiles()
	if err := t.read(files); err != nil {
		return nil, fmt.Errorf("template %s: %w", t.name(), err)
	}
	if err := scan(files); err != nil {
		return nil, fmt.Errorf("template %s: %w", t.name(), err)
	}
	return t, nil
}

// Prompt returns the system prompt: AGENTS.md, and OUTPUT.md after it.
func (t *Template) Prompt() string {
	parts := []string{strings.TrimSpace(t.System), strings.TrimSpace(t.Output)}
	return strings.TrimSpace(strings.Join(parts, "\n\n"))
}

// open returns the template's folder. Nothing outside of it can be reached
// through it.
func (t *Template) open() (files fs.FS, closeFiles func(), err error) {
	if t.Dir == "" {
		files, err = fs.Sub(embedded, "default")
		return files, func() {}, err
	}
	root, err := os.OpenRoot(t.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("template folder %s is not there", t.Dir)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open the template folder: %w", err)
	}
	return root.FS(), func() { _ = root.Close() }, nil
}

func (t *Template) name() string {
	if t.Dir == "" {
		return "in the binary"
	}
	return t.Dir
}

// read fills in the fields from the files they come from.
func (t *Template) read(files fs.FS) error {
	var err error
	if t.System, err = readText(files, SystemFile); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing: it is the agent's system prompt, and every template needs one", SystemFile)
		}
		return err
	}
	if strings.TrimSpace(t.System) == "" {
		return fmt.Errorf("%s is empty: it is the agent's system prompt", SystemFile)
	}
	if t.Output, err = readText(files, OutputFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	schema, err := readText(files, SchemaFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	t.Schema = json.RawMessage(schema)
	t.schema, err = compileSchema(t.Schema)
	return err
}

func readText(files fs.FS, name string) (string, error) {
	info, err := fs.Stat(files, name)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a file", name)
	}
	f, err := files.Open(name)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTextFile+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read %s: %w", name, err)
	case len(text) > maxTextFile:
		return "", fmt.Errorf("%s is larger than %d bytes", name, maxTextFile)
	case !utf8.Valid(text) || strings.ContainsRune(string(text), 0):
		return "", fmt.Errorf("%s is not text in UTF-8", name)
	}
	return strings.TrimPrefix(string(text), "\ufeff"), nil
}
