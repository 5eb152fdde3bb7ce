package scripted

import (
	"fmt"
	"strings"
)

// View is a request as a script's rules and templates see it. A turn begins
// with the user's words and goes on through the model's tool calls until its
// answer.
type View struct {
	Model       string
	System      string       // the system prompt's text
	Message     string       // the user's words that began this turn
	Turn        int          // 1 in a conversation's first turn
	Earlier     []string     // the user's words of earlier turns
	ToolResults []ToolResult // of this turn, in order

	said    []string // the model's and the tools' texts in this turn
	history []string // all texts before this turn
	groups  map[string][]string
}

// ToolResult is what a tool answered.
type ToolResult struct {
	Tool    string
	Text    string
	IsError bool
}

// LastToolResult is the text of the turn's last tool result, or "".
func (v View) LastToolResult() string { return v.last().Text }

// LastTool is the name of the tool of the turn's last result, or "".
func (v View) LastTool() string { return v.last().Tool }

// Match is group n of what the rule's match.message found; 0 is all of it.
func (v View) Match(n int) (string, error) { return v.group("message", n) }

// HistoryMatch is group n of what the rule's match.history found.
func (v View) HistoryMatch(n int) (string, error) { return v.group("history", n) }

// ResultMatch is group n of what the rule's match.tool_result found.
func (v View) ResultMatch(n int) (string, error) { return v.group("tool_result", n) }

// SystemMatch is group n of what the rule's match.system found.
func (v View) SystemMatch(n int) (string, error) { return v.group("system", n) }

// History is every text of the conversation before this turn, in order: the
// user's, the model's and the tools', joined by newlines.
func (v View) History() string { return strings.Join(v.history, "\n") }

func (v View) last() ToolResult {
	if len(v.ToolResults) == 0 {
		return ToolResult{}
	}
	return v.ToolResults[len(v.ToolResults)-1]
}

func (v View) group(key string, n int) (string, error) {
	groups := v.groups[key]
	if n < 0 || n >= len(groups) {
		return "", fmt.Errorf("match.%s has no group %d", key, n)
	}
	return groups[n], nil
}

// fit reports whether the rule's match fits the request, and returns the view
// with the groups that it found.
func (m *match) fit(v View, r *incoming) (View, bool) {
	v.groups = nil
	last := v.last()
	for _, is := range []bool{
		m.Stream == nil || *m.Stream == r.Stream,
		m.EarlierTurns == nil || *m.EarlierTurns == len(v.Earlier),
		m.ToolResults == nil || *m.ToolResults == len(v.ToolResults),
		m.ToolError == nil || len(v.ToolResults) > 0 && *m.ToolError == last.IsError,
		m.HasTool == "" || r.hasTool(m.HasTool),
	} {
		if !is {
			return v, false
		}
	}
	found := m.findAll(&v)
	return v, found
}

// findAll looks for the match's patterns and keeps their groups in v.
func (m *match) findAll(v *View) bool {
	last := v.last()
	answered := len(v.ToolResults) > 0
	for _, part := range []struct {
		key     string
		pattern *pattern
		text    string
		there   bool
	}{
		{"model", m.Model, v.Model, true},
		{"message", m.Message, v.Message, true},
		{"tool_name", m.ToolName, last.Tool, answered},
		{"tool_result", m.ToolResult, last.Text, answered},
		{"system", m.System, v.System, true},
	} {
		if part.pattern != nil && !v.find(part.key, part.pattern, part.text, part.there) {
			return false
		}
	}
	return m.History == nil || v.find("history", m.History, v.History(), true)
}

func (v *View) find(key string, p *pattern, text string, there bool) bool {
	groups, ok := p.find(text)
	if !ok || !there {
		return false
	}
	if v.groups == nil {
		v.groups = map[string][]string{}
	}
	v.groups[key] = groups
	return true
}

func (r *incoming) hasTool(name string) bool {
	for _, tool := range r.Tools {
		if tool.Name == name {
			return true
		}
	}
	return false
}
