package scripted

import (
	"errors"
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// How a rule's times are counted.
const (
	perConversation = "conversation"
	perServer       = "server"
)

// checker collects what is wrong in a script, with lines.
type checker struct {
	tree *yaml.Node
	errs []error
}

func (c *checker) wrong(path []any, format string, args ...any) {
	where := fmt.Sprintf("line %d: ", lineOf(c.tree, path...))
	c.errs = append(c.errs, errors.New(where+fmt.Sprintf(format, args...)))
}

// check finds what the YAML's shape alone does not show, and fills in defaults.
func check(doc *document, tree *yaml.Node) error {
	c := &checker{tree: tree}
	if len(doc.Rules) == 0 {
		c.wrong(nil, "rules: a script needs at least one")
	}
	for model, price := range doc.Prices {
		if price.Input < 0 || price.Output < 0 || price.CacheRead < 0 || price.CacheWrite < 0 {
			c.wrong([]any{"prices", model}, "prices of %s: none may be negative", model)
		}
	}
	names := map[string]bool{}
	for i := range doc.Rules {
		r := &doc.Rules[i]
		if r.Name == "" {
			r.Name = "rule " + strconv.Itoa(i+1)
		}
		if names[r.Name] {
			c.wrong([]any{"rules", i, "name"}, "the name %q is there twice", r.Name)
		}
		names[r.Name] = true
		c.rule(r, []any{"rules", i})
		if r.Match == (match{}) && r.Times == 0 && i < len(doc.Rules)-1 {
			c.wrong([]any{"rules", i}, "%s fits every request, so that the rules after it never answer: "+
				"give it match or times, or move it to the end", r.Name)
		}
	}
	return errors.Join(c.errs...)
}

func (c *checker) rule(r *rule, at []any) {
	field := func(key string) []any { return append(at[:len(at):len(at)], key) }
	if r.Times < 0 {
		c.wrong(field("times"), "times is %d: want 1 or more", r.Times)
	}
	switch {
	case r.Per == "":
		r.Per = perConversation
	case r.Per != perConversation && r.Per != perServer:
		c.wrong(field("per"), "per is %q: want %s or %s", r.Per, perConversation, perServer)
	case r.Times == 0:
		c.wrong(field("per"), "per says how times is counted: give times too")
	}
	if r.Delay < 0 || r.ChunkDelay < 0 {
		c.wrong(at, "delay and chunk_delay may not be negative")
	}
	c.count(r.Match.EarlierTurns, field("match"), "earlier_turns")
	c.count(r.Match.ToolResults, field("match"), "tool_results")
	if u := r.Usage; u != nil && (u.Input < 0 || u.Output < 0 || u.CacheRead < 0 || u.CacheCreation < 0) {
		c.wrong(field("usage"), "usage: no number of tokens may be negative")
	}
	for i := range r.Answer {
		c.block(&r.Answer[i], append(field("answer"), i))
	}
	c.ending(r, at, field)
}

func (c *checker) count(n *int, at []any, key string) {
	if n != nil && *n < 0 {
		c.wrong(append(at, key), "%s is %d: want 0 or more", key, *n)
	}
}

func (c *checker) block(b *block, at []any) {
	kinds := 0
	for _, set := range []bool{b.Text != nil, b.Thinking != nil, b.ToolUse != ""} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		c.wrong(at, "a block of an answer is one of text, thinking and tool_use")
	}
	if b.Input != nil && b.ToolUse == "" {
		c.wrong(at, "input belongs to tool_use")
	}
	if b.Chunk < 0 {
		c.wrong(append(at, "chunk"), "chunk is %d: want 1 or more characters", b.Chunk)
	}
}

// ending checks what may stand together: an answer, an error, a fault.
func (c *checker) ending(r *rule, at []any, field func(string) []any) {
	silent := r.Fault != nil && r.Fault.At == beforeHeaders
	whole := r.Error != nil && r.Error.At == nil
	switch {
	case r.Error != nil && r.Fault != nil:
		c.wrong(at, "a rule has error or fault, not both")
	case whole && len(r.Answer) > 0:
		c.wrong(field("error"), "a rule has error or answer, not both; for an error within a stream, give error.at")
	case silent && len(r.Answer) > 0:
		c.wrong(field("fault"), "a fault at headers leaves no room for an answer: remove one of them")
	case len(r.Answer) == 0 && !whole && !silent:
		c.wrong(at, "%s answers nothing: give answer, error, or a fault at headers", r.Name)
	}
	if r.Error != nil {
		c.failure(r.Error, field("error"))
	}
	if r.Fault != nil {
		c.fault(r.Fault, field("fault"))
	}
}

// errorTypes are the Messages API's statuses, with the types and messages that
// it gives them.
var errorTypes = map[int]failure{
	400: {Type: "invalid_request_error", Message: "The request is invalid"},
	401: {Type: "authentication_error", Message: "invalid x-api-key"},
	402: {Type: "billing_error", Message: "Your credit balance is too low"},
	403: {Type: "permission_error", Message: "Your API key does not have permission to use the specified resource"},
	404: {Type: "not_found_error", Message: "The requested resource could not be found"},
	413: {Type: "request_too_large", Message: "Request exceeds the maximum size"},
	429: {Type: "rate_limit_error", Message: "This request would exceed your account's rate limit"},
	500: {Type: "api_error", Message: "Internal server error"},
	504: {Type: "timeout_error", Message: "Request timed out"},
	529: {Type: "overloaded_error", Message: "Overloaded"},
}

func (c *checker) failure(f *failure, at []any) {
	if f.Status == 0 && f.At != nil {
		f.Status = 529
	}
	if f.Status < 400 || f.Status > 599 {
		c.wrong(at, "error.status is %d: want 400 to 599", f.Status)
	}
	known, ok := errorTypes[f.Status]
	if !ok {
		known = errorTypes[500]
	}
	if f.Type == "" {
		f.Type = known.Type
	}
	if f.Message == "" {
		f.Message = known.Message
	}
	c.count(f.At, at, "at")
}

func (c *checker) fault(f *fault, at []any) {
	switch f.Kind {
	case faultHang, faultCut:
	case faultMalformed, faultEnd:
		if f.At == beforeHeaders {
			c.wrong(at, "a fault of kind %s is in the body: at is a number of deltas", f.Kind)
		}
	default:
		c.wrong(at, "fault.kind is %q: want %s, %s, %s or %s", f.Kind, faultHang, faultCut, faultMalformed, faultEnd)
	}
}
