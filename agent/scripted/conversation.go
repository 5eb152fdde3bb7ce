package scripted

import (
	"encoding/json"
	"fmt"
	"strings"
)

// incoming is the part of a Messages API request that scripts can see.
type incoming struct {
	Model     string            `json:"model"`
	MaxTokens int               `json:"max_tokens"`
	Stream    bool              `json:"stream"`
	System    content           `json:"system"`
	Messages  []incomingMessage `json:"messages"`
	Tools     []struct {
		Name string `json:"name"`
	} `json:"tools"`
	Metadata struct {
		UserID string `json:"user_id"`
	} `json:"metadata"`
}

type incomingMessage struct {
	Role    string  `json:"role"`
	Content content `json:"content"`
}

// content is a list of blocks; the API takes a plain text for a list of one.
type content []incomingBlock

type incomingBlock struct {
	Type      string  `json:"type"`
	Text      string  `json:"text"`
	ID        string  `json:"id"`
	Name      string  `json:"name"`
	ToolUseID string  `json:"tool_use_id"`
	IsError   bool    `json:"is_error"`
	Content   content `json:"content"`
}

// UnmarshalJSON reads a text, or a list of blocks.
func (c *content) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		*c = content{{Type: "text", Text: text}}
		return nil
	}
	// A block of a kind that the script has no use for may hold anything in
	// these fields (a thinking block, a search result): it is passed over.
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil
	}
	for _, item := range raw {
		var b incomingBlock
		if err := json.Unmarshal(item, &b); err == nil {
			*c = append(*c, b)
		}
	}
	return nil
}

// text joins the blocks' texts.
func (c content) text() string {
	var texts []string
	for _, b := range c {
		if b.Type == "text" {
			texts = append(texts, b.Text)
		}
	}
	return strings.Join(texts, "\n")
}

// valid says what the API would answer to a request that lacks something.
func (r *incoming) valid() error {
	switch {
	case r.Model == "":
		return fmt.Errorf("model: Field required")
	case r.MaxTokens <= 0:
		return fmt.Errorf("max_tokens: Field required")
	case len(r.Messages) == 0:
		return fmt.Errorf("messages: at least one message is required")
	}
	return nil
}

// conversation names whose request it is: the session that the CLI writes into
// metadata.user_id, else all of that field, else the conversation's first words.
func (r *incoming) conversation() string {
	var id struct {
		Session string `json:"session_id"`
	}
	if json.Unmarshal([]byte(r.Metadata.UserID), &id) == nil && id.Session != "" {
		return id.Session
	}
	if r.Metadata.UserID != "" || len(r.Messages) == 0 {
		return r.Metadata.UserID
	}
	return r.Messages[0].Content.text()
}

// view reads the conversation: where the present turn begins, what was said
// before it, which tools have answered in it.
func (r *incoming) view() View {
	v := View{Model: r.Model, System: r.System.text()}
	names := map[string]string{} // tool_use id to tool
	speaking := false            // the last block was the user's own words
	for _, m := range r.Messages {
		for _, b := range m.Content {
			switch {
			case b.Type == "text" && m.Role == "user":
				said := ownWords(b.Text)
				if said == "" {
					continue
				}
				if speaking {
					v.Message += "\n" + said
				} else {
					v.begin(said)
				}
				speaking = true
				continue
			case b.Type == "text":
				v.said = append(v.said, b.Text)
			case b.Type == "tool_use":
				names[b.ID] = b.Name
			case b.Type == "tool_result":
				result := ToolResult{Tool: names[b.ToolUseID], Text: withoutReminders(b.Content.text()), IsError: b.IsError}
				v.ToolResults = append(v.ToolResults, result)
				v.said = append(v.said, result.Text)
			}
			speaking = false
		}
	}
	return v
}

// begin makes message the turn's, and what was there the history.
func (v *View) begin(message string) {
	if v.Turn > 0 {
		v.Earlier = append(v.Earlier, v.Message)
		v.history = append(v.history, v.Message)
	}
	v.history = append(v.history, v.said...)
	v.Turn++
	v.Message, v.said, v.ToolResults = message, nil, nil
}

const (
	reminderStart = "<system-reminder>"
	reminderEnd   = "</system-reminder>"
	interruptMark = "[Request interrupted by user"
)

// ownWords is what the user wrote: the CLI adds reminders of its own to a
// user's message, and a mark where a turn was interrupted.
func ownWords(text string) string {
	text = strings.TrimSpace(withoutReminders(text))
	if strings.HasPrefix(text, interruptMark) {
		_, text, _ = strings.Cut(text, "]")
	}
	return strings.TrimSpace(text)
}

// withoutReminders takes out what the CLI adds to messages and, with a budget,
// to tools' results.
func withoutReminders(text string) string {
	for {
		start := strings.Index(text, reminderStart)
		if start < 0 {
			return text
		}
		length := strings.Index(text[start:], reminderEnd)
		if length < 0 {
			return text
		}
		text = strings.TrimRight(text[:start], "\n") + text[start+length+len(reminderEnd):]
	}
}
