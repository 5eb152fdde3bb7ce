package scripted

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

func decode(data []byte) (document, error) {
	var doc document
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return doc, errors.New("it is empty: a script needs rules, see the package's documentation")
	}
	if err != nil {
		return doc, readable(err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return doc, errors.New("it has more than one YAML document: keep one, without a `---` line after it")
	}
	var tree yaml.Node
	if err := yaml.Unmarshal(data, &tree); err != nil {
		return doc, readable(err)
	}
	err = check(&doc, &tree)
	return doc, err
}

// keyed are the types that a script's unknown keys can be in.
var keyed = map[string]reflect.Type{
	"scripted.document": reflect.TypeFor[document](),
	"scripted.Price":    reflect.TypeFor[Price](),
	"scripted.rule":     reflect.TypeFor[rule](),
	"scripted.match":    reflect.TypeFor[match](),
	"scripted.block":    reflect.TypeFor[block](),
	"scripted.usage":    reflect.TypeFor[usage](),
	"scripted.failure":  reflect.TypeFor[failure](),
	"scripted.fault":    reflect.TypeFor[fault](),
}

var (
	unknownKey = regexp.MustCompile(`^(line \d+): field (.*) not found in type (\S+)$`)
	wrongType  = regexp.MustCompile(`(?s)^(line \d+): cannot unmarshal \S+ (.*) ?into (\S+)$`)
)

// readable puts the YAML decoder's words about Go types into words about keys.
func readable(err error) error {
	var typed *yaml.TypeError
	if !errors.As(err, &typed) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	errs := make([]error, len(typed.Errors))
	for i, text := range typed.Errors {
		if m := unknownKey.FindStringSubmatch(text); m != nil {
			text = fmt.Sprintf("%s: unknown key %q: known here are %s", m[1], m[2], knownKeys(keyed[m[3]]))
		} else if m := wrongType.FindStringSubmatch(text); m != nil {
			text = fmt.Sprintf("%s: %s does not fit: want %s", m[1], cmp.Or(strings.TrimSpace(m[2]), "this"), kindName(m[3]))
		}
		errs[i] = errors.New(text)
	}
	return errors.Join(errs...)
}

func knownKeys(t reflect.Type) string {
	if t == nil {
		return "others"
	}
	var keys []string
	for i := range t.NumField() {
		keys = append(keys, t.Field(i).Tag.Get("yaml"))
	}
	return strings.Join(keys, ", ")
}

func kindName(goType string) string {
	switch {
	case goType == "time.Duration":
		return "a duration such as 200ms or 2s"
	case strings.HasPrefix(goType, "int"):
		return "a whole number"
	case strings.HasPrefix(goType, "float"):
		return "a number"
	case goType == "bool":
		return "true or false"
	case goType == "string":
		return "a text"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	default:
		return "a mapping of keys to values"
	}
}

// UnmarshalYAML reads "headers", or a number of deltas.
func (m *moment) UnmarshalYAML(node *yaml.Node) error {
	if node.Value == "headers" {
		*m = beforeHeaders
		return nil
	}
	n, err := strconv.Atoi(node.Value)
	if err != nil || n < 0 {
		return mistake(node, "at %q: want headers, or the number of deltas before it", node.Value)
	}
	*m = moment(n)
	return nil
}

func mistake(node *yaml.Node, format string, args ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: ", node.Line) + fmt.Sprintf(format, args...)}}
}

// lineOf is the line of the value that the path of keys and indexes leads to,
// or of its nearest parent that is there.
func lineOf(node *yaml.Node, path ...any) int {
	if node.Kind == yaml.DocumentNode && len(node.Content) > 0 {
		node = node.Content[0]
	}
	for _, step := range path {
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		next := child(node, step)
		if next == nil {
			break
		}
		node = next
	}
	return node.Line
}

func child(node *yaml.Node, step any) *yaml.Node {
	switch step := step.(type) {
	case int:
		if node.Kind == yaml.SequenceNode && step < len(node.Content) {
			return node.Content[step]
		}
	case string:
		at := slices.IndexFunc(node.Content, func(n *yaml.Node) bool { return n.Value == step })
		if node.Kind == yaml.MappingNode && at >= 0 && at%2 == 0 {
			return node.Content[at+1]
		}
	}
	return nil
}
