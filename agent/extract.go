package agent

import (
	"encoding/json"
	"strings"
)

// lastObject returns the last JSON object in a text, or nil: of the objects
// that are in no other object, the one that begins last. What is around it
// does not matter: prose, a fence, an array, an object that never ends.
//
// It takes time in proportion to the text, whatever is in it.
func lastObject(text string) json.RawMessage {
	text = strings.ToValidUTF8(text, "\ufffd")
	f := finder{text: text, whole: map[int]int{}, dead: make([]uint64, len(text)/64+1)}
	return f.last()
}

// finder tries each '{' of a text as an object's beginning, from left to right.
//
// A try that fails has still read the braces on its way as JSON: for each it is
// known then that its object ends (whole), or fails where the try failed
// (dead), and it is not tried again. Only a brace that was inside a string is.
// Two tries that read the same part of a text both to its end disagree on what
// is in quotes there, and there is no third reading: so no part is read more
// than twice, but for tries that fail at once.
type finder struct {
	text  string
	whole map[int]int // where an object begins: where it ends
	dead  []uint64    // a bit for each byte
}

func (f *finder) last() json.RawMessage {
	var found json.RawMessage
	for at := f.next(0); at >= 0; {
		end, known := f.whole[at]
		if !known && !f.isDead(at) && mayBegin(f.text[at:]) {
			end, known = f.try(at)
		}
		if !known {
			at = f.next(at + 1)
			continue
		}
		// Valid also sees what the tokens do not show: nesting too deep for
		// any other reader.
		if object := f.text[at:end]; json.Valid([]byte(object)) {
			found = json.RawMessage(object)
		}
		at = f.next(end)
	}
	return found
}

func (f *finder) next(from int) int {
	at := strings.IndexByte(f.text[from:], '{')
	if at < 0 {
		return -1
	}
	return from + at
}

// try reads an object that begins at the brace at.
func (f *finder) try(at int) (end int, ok bool) {
	type span struct{ begin, end int }
	var open []int   // braces whose objects have not ended
	var ended []span // objects that have, but for those in another of them
	decoder := json.NewDecoder(strings.NewReader(f.text[at:]))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			break
		}
		end := at + int(decoder.InputOffset())
		switch token {
		case json.Delim('{'):
			open = append(open, end-1)
		case json.Delim('}'):
			begin := open[len(open)-1]
			if open = open[:len(open)-1]; len(open) == 0 {
				return end, true
			}
			for len(ended) > 0 && ended[len(ended)-1].begin > begin {
				ended = ended[:len(ended)-1]
			}
			ended = append(ended, span{begin, end})
		}
	}
	for _, begin := range open {
		f.dead[begin/64] |= 1 << (begin % 64)
	}
	for _, s := range ended {
		f.whole[s.begin] = s.end
	}
	return 0, false
}

func (f *finder) isDead(at int) bool { return f.dead[at/64]&(1<<(at%64)) != 0 }

// mayBegin tells a brace that may begin an object from one of prose or code,
// without the cost of a decoder: a '}' or a quoted name and ':' follow it.
func mayBegin(text string) bool {
	rest := strings.TrimLeft(text[1:], " \t\r\n")
	if strings.HasPrefix(rest, "}") {
		return true
	}
	if !strings.HasPrefix(rest, `"`) {
		return false
	}
	for i := 1; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case '"':
			return strings.HasPrefix(strings.TrimLeft(rest[i+1:], " \t\r\n"), ":")
		}
	}
	return false
}
