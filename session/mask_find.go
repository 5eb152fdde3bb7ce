package session

import (
	"slices"
	"strings"
)

// finder finds texts in another in one pass, however many they are: the
// automaton of Aho and Corasick.
type finder struct {
	nodes []node
	root  [256]int32 // the root's edges; 0 leads back to it
}

// node is a beginning of some of the texts.
type node struct {
	edges   []edge
	shorter int32 // the node of the longest other beginning that this one ends with
	depth   int32 // its length
	found   int32 // length of the longest text that this beginning ends with; 0: none
}

type edge struct {
	b  byte
	to int32
}

func newFinder(texts []string) *finder {
	f := &finder{nodes: make([]node, 1)}
	for _, text := range texts {
		at := int32(0)
		for i := range len(text) {
			to := f.nodes[at].to(text[i])
			if to == 0 {
				to = int32(len(f.nodes))
				f.nodes = append(f.nodes, node{depth: int32(i + 1)})
				f.nodes[at].edges = append(f.nodes[at].edges, edge{text[i], to})
			}
			at = to
		}
		f.nodes[at].found = f.nodes[at].depth
	}
	for _, e := range f.nodes[0].edges {
		f.root[e.b] = e.to
	}
	f.link()
	return f
}

// link sets what a node falls back to, the shorter beginnings first.
func (f *finder) link() {
	level := f.nodes[0].edges
	for len(level) > 0 {
		var next []edge
		for _, e := range level {
			n := &f.nodes[e.to]
			n.found = max(n.found, f.nodes[n.shorter].found)
			for _, child := range n.edges {
				f.nodes[child.to].shorter = f.step(n.shorter, child.b)
			}
			next = append(next, n.edges...)
		}
		level = next
	}
}

func (n *node) to(b byte) int32 {
	for _, e := range n.edges {
		if e.b == b {
			return e.to
		}
	}
	return 0
}

// step returns the node behind at and b.
func (f *finder) step(at int32, b byte) int32 {
	for at != 0 {
		if to := f.nodes[at].to(b); to != 0 {
			return to
		}
		at = f.nodes[at].shorter
	}
	return f.root[b]
}

// in reports whether s has any of the texts.
func (f *finder) in(s string) bool {
	at := int32(0)
	for i := range len(s) {
		if at = f.step(at, s[i]); f.nodes[at].found > 0 {
			return true
		}
	}
	return false
}

// textMask masks a text that comes in pieces. All that it returns together is
// what it would return of the whole text, however that is cut.
type textMask struct {
	find  *finder
	state int32
	read  int    // bytes of the text that were read
	held  []byte // its last bytes, which are not told yet
	found []span // secrets in held, in order and apart from each other
	until int    // the end of the secret that was told last
}

// span is a part of the text, by byte.
type span struct{ begin, end int }

func (m masker) stream() *textMask { return &textMask{find: m.find} }

// add takes the next piece and returns what can be told now.
func (t *textMask) add(piece string) string {
	for i := range len(piece) {
		t.state = t.find.step(t.state, piece[i])
		if n := t.find.nodes[t.state].found; n > 0 {
			end := t.read + i + 1
			t.note(span{end - int(n), end})
		}
	}
	t.read += len(piece)
	if t.state == 0 && len(t.held) == 0 && len(t.found) == 0 && t.until <= t.read-len(piece) {
		return piece
	}
	t.held = append(t.held, piece...)
	// What comes may belong to a secret that begins with these last bytes.
	return t.tell(t.read - int(t.find.nodes[t.state].depth))
}

// end returns what was held back: no piece comes any more.
func (t *textMask) end() string {
	out := t.tell(t.read)
	*t = textMask{find: t.find}
	return out
}

// note joins s with the secrets that it overlaps.
func (t *textMask) note(s span) {
	if s.begin < t.until {
		t.until, t.found = s.end, nil
		return
	}
	for len(t.found) > 0 && t.found[len(t.found)-1].end > s.begin {
		s.begin = min(s.begin, t.found[len(t.found)-1].begin)
		t.found = t.found[:len(t.found)-1]
	}
	t.found = append(t.found, s)
}

// tell returns the text up to byte to, and of a secret that begins before it
// the mask.
func (t *textMask) tell(to int) string {
	begin := t.read - len(t.held)
	if to <= begin {
		return ""
	}
	if t.until <= begin && len(t.found) == 0 {
		out := string(t.held[:to-begin])
		t.held = slices.Delete(t.held, 0, to-begin)
		return out
	}
	var out strings.Builder
	at := max(begin, min(t.until, to))
	for len(t.found) > 0 && t.found[0].begin < to {
		s := t.found[0]
		t.found = t.found[1:]
		out.Write(t.held[at-begin : s.begin-begin])
		out.WriteString(maskedSecret)
		t.until = s.end
		at = min(s.end, to)
	}
	out.Write(t.held[at-begin : to-begin])
	t.held = slices.Delete(t.held, 0, to-begin)
	return out.String()
}
