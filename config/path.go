package config

import (
	"strconv"
	"strings"
)

// separator joins the parts of a path for koanf. Names of agents and variables
// may hold a dot; no key may hold this control character.
const separator = "\x1f"

// path leads to one value of the configuration: keys from the top, with list
// elements as "[0]".
type path []string

// child returns the path of one key below p.
func (p path) child(key string) path {
	return append(p[:len(p):len(p)], key)
}

// element returns the path of one list element below p.
func (p path) element(i int) path { return p.child("[" + strconv.Itoa(i) + "]") }

// key returns p as koanf has it.
func (p path) key() string { return strings.Join(p, separator) }

// String returns p as messages have it: agents.support.tools[1].
func (p path) String() string {
	var b strings.Builder
	for i, part := range p {
		isElement := strings.HasPrefix(part, "[")
		if i > 0 && !isElement {
			b.WriteByte('.')
		}
		if isElement || isPlain(part) {
			b.WriteString(part)
		} else {
			b.WriteString(quote(part))
		}
	}
	return b.String()
}

func isPlain(key string) bool {
	return key != "" && len(key) < 100 && !strings.ContainsFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
}

// parsePath reads what String writes, without list elements.
func parsePath(text string) (path, bool) {
	var p path
	for more := true; more; {
		var part string
		var ok bool
		part, text, more, ok = cutPart(text)
		if !ok || part == "" || hasControl(part) {
			return nil, false
		}
		p = append(p, part)
	}
	return p, true
}

// cutPart cuts the first part, quoted or not, off a path; more is whether a dot
// follows it.
func cutPart(text string) (part, rest string, more, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		part, rest, more = strings.Cut(text, ".")
		return part, rest, more, true
	}
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return "", "", false, false
	}
	if part, err = strconv.Unquote(quoted); err != nil {
		return "", "", false, false
	}
	rest, more = strings.CutPrefix(text[len(quoted):], ".")
	return part, rest, more, more || rest == ""
}

func hasControl(key string) bool {
	return strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// quote returns text in quotes, cut short where it is long.
func quote(text string) string {
	const most = 80
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return strconv.Quote(text)
}
