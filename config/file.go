package config

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// DefaultFile is read where no file is named, if it is there.
const DefaultFile = "config.yaml"

// checksum tells one content of the file from another.
type checksum [sha256.Size]byte

// Bounds of what a configuration file can be; far above any real one. The
// second is counted after aliases are put in, which can make much of little.
const (
	maxFileSize = 4 << 20
	maxValues   = 20_000
	maxDepth    = 32
)

// readFile returns the content of a file that may be at most so large.
func readFile(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = errors.New("the file is too large: at most " + strconv.FormatInt(most, 10) + " bytes are read")
	}
	return data, err
}

// reason is why a file could not be read, without its name.
func reason(err error) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "there is no such file"
	}
	return err.Error()
}

// document is a YAML file as a tree of maps, lists, texts and nils, with where
// each value of it stands. Every scalar is its text as written: what type it
// must have is the decoder's to say.
type document struct {
	tree    map[string]any
	origins map[string]origin
}

// parse reads a file's content. Problems go to r; ok is false where there are
// such that the rest can not be told.
func parse(data []byte, source string, r *report) (doc document, ok bool) {
	doc = document{tree: map[string]any{}, origins: map[string]origin{}}
	p := parser{report: r, source: source, origins: doc.origins, open: map[*yaml.Node]bool{}}

	dec := yaml.NewDecoder(bytes.NewReader(data))
	var top, more yaml.Node
	err := dec.Decode(&top)
	if errors.Is(err, io.EOF) {
		return doc, true
	}
	if err != nil {
		p.syntax(err)
		return doc, false
	}
	if dec.Decode(&more) == nil {
		p.errorf(&more, nil, "a second document begins here: remove it, a configuration is one document")
	}

	switch tree := p.value(nil, &top).(type) {
	case map[string]any:
		doc.tree = tree
	case nil: // nothing but comments, or an error
	default:
		p.errorf(top.Content[0], nil, "want keys and values, such as \"data_dir: ./data\"")
	}
	return doc, p.values <= maxValues
}

// parser makes a document of nodes.
type parser struct {
	*report
	source  string
	origins map[string]origin
	values  int                 // read so far
	open    map[*yaml.Node]bool // aliases that are being put in
}

func (p *parser) errorf(n *yaml.Node, at path, format string, args ...any) {
	p.errorAt(origin{source: p.source, line: n.Line}, at, format, args...)
}

var syntaxLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

// syntax notes an error of the YAML parser, which names the line in its text
// alone.
func (p *parser) syntax(err error) {
	text := err.Error()
	m := syntaxLine.FindStringSubmatch(text)
	line, _ := strconv.Atoi(m[1])
	p.errorAt(origin{source: p.source, line: line}, nil, "this is not YAML: %s", text[len(m[0]):])
}

// value returns what n stands for.
func (p *parser) value(at path, n *yaml.Node) any {
	if p.values++; p.values > maxValues {
		if p.values == maxValues+1 {
			p.errorf(n, nil, "the file has more than %d values, aliases put in: make it smaller", maxValues)
		}
		return nil
	}
	if len(at) > maxDepth {
		p.errorf(n, nil, "values are nested more than %d deep here: no setting is", maxDepth)
		return nil
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return p.value(at, n.Content[0])
	case yaml.AliasNode:
		if p.open[n.Alias] {
			p.errorf(n, at, "*%s contains itself", n.Value)
			return nil
		}
		p.open[n.Alias] = true
		defer delete(p.open, n.Alias)
		return p.value(at, n.Alias)
	case yaml.MappingNode:
		tree := map[string]any{}
		p.mapping(at, n, tree, map[string]int{})
		return tree
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, c := range n.Content {
			p.origins[at.element(i).key()] = p.origin(c)
			list[i] = p.value(at.element(i), c)
		}
		return list
	}
	if n.ShortTag() == "!!null" {
		return nil
	}
	return n.Value
}

// mapping puts the keys of n into tree, then those that n merges ("<<") and
// tree does not have. lines has the lines of the keys written so far.
func (p *parser) mapping(at path, n *yaml.Node, tree map[string]any, lines map[string]int) {
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.ShortTag() == "!!merge":
			merged = append(merged, v)
		case k.Kind != yaml.ScalarNode || hasControl(k.Value):
			p.errorf(k, at, "a key must be a plain word")
		case lines[k.Value] > 0:
			p.errorf(k, at.child(k.Value), "the key is there twice, first in line %d: remove one of the two", lines[k.Value])
		default:
			lines[k.Value] = k.Line
			p.origins[at.child(k.Value).key()] = p.origin(k)
			tree[k.Value] = p.value(at.child(k.Value), v)
		}
	}
	for _, v := range merged {
		p.merge(at, v, tree)
	}
}

// merge puts into tree the keys that it does not have of n: a mapping, an
// alias of one, or a list of these.
func (p *parser) merge(at path, n *yaml.Node, tree map[string]any) {
	sources := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		sources = n.Content
	}
	for _, source := range sources {
		inner := parser{report: p.report, source: p.source, origins: map[string]origin{}, values: p.values, open: p.open}
		more, ok := inner.value(at, source).(map[string]any)
		p.values = inner.values
		if !ok {
			p.errorf(source, at, "<< merges a section: write <<: *name, where &name stands before a section")
			continue
		}
		for key, value := range more {
			if _, there := tree[key]; there {
				continue
			}
			tree[key] = value
			p.adopt(at.child(key), inner.origins)
		}
	}
}

// adopt takes over the origins at and below p.
func (p *parser) adopt(at path, origins map[string]origin) {
	key := at.key()
	for k, o := range origins {
		if k == key || len(k) > len(key) && k[:len(key)+len(separator)] == key+separator {
			p.origins[k] = o
		}
	}
}

func (p *parser) origin(n *yaml.Node) origin {
	return origin{kind: fromFile, source: p.source, line: n.Line}
}
