package gateway

import (
	"encoding/json"
	"slices"
)

// Bounds of what a fieldScanner keeps; longer keys and values are passed over.
const (
	maxKey   = 256
	maxValue = 64 << 10
)

// fieldScanner finds the values of a few keys of a JSON object that comes in
// pieces, and keeps nothing else. It is no full check of the JSON: what it
// finds in a valid object is what any other reader finds there.
type fieldScanner struct {
	wanted []string
	values map[string][]byte // what was found, as JSON

	done     bool // the object has ended
	bad      bool // this is no JSON object, or not that alone
	repeated bool // a wanted key came twice

	depth     int
	inString  bool
	escaped   bool
	expectKey bool // the next string is a key of the object
	inKey     bool
	key       []byte // with its quotes
	current   string // the wanted key whose value is being read
	value     []byte
}

func newFieldScanner(wanted ...string) fieldScanner {
	return fieldScanner{wanted: wanted, values: map[string][]byte{}}
}

func (s *fieldScanner) feed(p []byte) {
	for i := 0; i < len(p) && !s.bad; i++ {
		if s.inString {
			i = s.text(p, i)
			continue
		}
		s.structure(p[i])
	}
}

// text goes on in a string from p[i], and returns the last byte's index that it
// has taken.
func (s *fieldScanner) text(p []byte, i int) int {
	from := i
	for ; i < len(p); i++ {
		c := p[i]
		if plain[c] && !s.escaped {
			continue
		}
		switch {
		case c < ' ':
			s.bad = true
			return i
		case s.escaped:
			s.escaped = false
		case c == '\\':
			s.escaped = true
		case c == '"':
			s.keep(p[from : i+1])
			s.inString = false
			if s.inKey {
				s.endKey()
			}
			return i
		}
	}
	s.keep(p[from:])
	return i
}

// plain are the bytes that mean nothing but themselves in a string.
var plain = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return t
}()

// structure takes in a byte outside of strings.
func (s *fieldScanner) structure(c byte) {
	switch {
	case c == ' ' || c == '\t' || c == '\n' || c == '\r':
		return
	case s.done, c < ' ', c > '~', s.depth == 0 && c != '{':
		s.bad = true
		return
	case s.depth == 1 && (c == ',' || c == '}'):
		s.endValue()
	}
	switch c {
	case '{', '[':
		s.depth++
		s.expectKey = s.depth == 1
	case '}', ']':
		s.depth--
		s.done = s.depth == 0
		s.bad = s.done && c == ']'
	case ',':
		s.expectKey = s.depth == 1
	case '"':
		s.inString = true
		if s.expectKey {
			s.expectKey, s.inKey, s.key = false, true, s.key[:0]
		}
	}
	if c == ':' && s.depth == 1 {
		return // it stands between the key and the value
	}
	s.keep([]byte{c})
}

func (s *fieldScanner) keep(p []byte) {
	switch {
	case s.inKey:
		if len(s.key) <= maxKey {
			s.key = append(s.key, p[:min(len(p), maxKey+1)]...)
		}
	case s.current != "":
		if len(s.value)+len(p) > maxValue {
			s.current = "" // too long to be what is wanted
			return
		}
		s.value = append(s.value, p...)
	}
}

func (s *fieldScanner) endKey() {
	s.inKey = false
	var key string
	if len(s.key) > maxKey || json.Unmarshal(s.key, &key) != nil || !slices.Contains(s.wanted, key) {
		return
	}
	if _, ok := s.values[key]; ok {
		s.repeated = true
	}
	s.current, s.value = key, nil
}

func (s *fieldScanner) endValue() {
	if s.current != "" {
		s.values[s.current], s.value = s.value, nil
		s.current = ""
	}
}
