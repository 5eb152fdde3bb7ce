package claude

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"claude-runner/agent"
)

// maxLine is the longest line that is read. A longer one is skipped.
const maxLine = 64 << 20

// message is a line of the CLI's output. It has the fields of all kinds, for
// the kinds that the driver knows; Type, and for some Subtype, say which are
// set.
type message struct {
	Type      string `json:"type"`
	Subtype   string `json:"subtype"`
	SessionID string `json:"session_id"`
	ParentID  string `json:"parent_tool_use_id"` // of a subagent's doing: the tool call that it is

	// system
	Model       string   `json:"model"`
	Tools       []string `json:"tools"`
	Status      string   `json:"status"`
	Attempt     int      `json:"attempt"`
	MaxRetries  int      `json:"max_retries"`
	RetryDelay  float64  `json:"retry_delay_ms"`
	ErrorStatus int      `json:"error_status"`

	Error string `json:"error"` // system, assistant: a word for what went wrong

	Event   streamEvent `json:"event"`   // stream_event
	Message apiMessage  `json:"message"` // assistant, user

	// result
	IsError        bool                  `json:"is_error"`
	APIErrorStatus int                   `json:"api_error_status"`
	Result         string                `json:"result"`
	Structured     json.RawMessage       `json:"structured_output"`
	TotalCostUSD   float64               `json:"total_cost_usd"`
	Usage          apiUsage              `json:"usage"`
	ModelUsage     map[string]modelUsage `json:"modelUsage"`
	Errors         []string              `json:"errors"`
	TerminalReason string                `json:"terminal_reason"`
	Origin         struct {
		Kind string `json:"kind"`
	} `json:"origin"`

	// control_request, control_response
	RequestID string `json:"request_id"`
	Request   struct {
		Subtype string `json:"subtype"`
	} `json:"request"`
	Response struct {
		Subtype   string `json:"subtype"`
		RequestID string `json:"request_id"`
		Error     string `json:"error"`
	} `json:"response"`
}

// apiMessage is a message of the Messages API, or a part of one.
type apiMessage struct {
	ID      string   `json:"id"`
	Model   string   `json:"model"`
	Content content  `json:"content"`
	Usage   apiUsage `json:"usage"`
}

// streamEvent is an event of the Messages API's stream.
type streamEvent struct {
	Type    string     `json:"type"`
	Message apiMessage `json:"message"` // message_start
	Delta   struct {
		Type     string `json:"type"`
		Text     string `json:"text"`
		Thinking string `json:"thinking"`
	} `json:"delta"` // content_block_delta
	Usage apiUsage `json:"usage"` // message_delta
}

// content is what a message or a tool's result holds. The API writes a text
// alone as a string; here it is a block.
type content []block

type block struct {
	Type      string          `json:"type"`
	Text      string          `json:"text"`
	Thinking  string          `json:"thinking"`
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Input     json.RawMessage `json:"input"`
	ToolUseID string          `json:"tool_use_id"`
	Content   json.RawMessage `json:"content"` // of a tool's result: see result
	IsError   bool            `json:"is_error"`
}

// result is the text of a tool's result. It is read when it is asked for, and
// what is in it not at all: a content's nesting has no end.
func (b block) result() string {
	var c content
	if len(b.Content) == 0 || tolerate(json.Unmarshal(b.Content, &c)) != nil {
		return ""
	}
	return c.text()
}

// UnmarshalJSON never fails for the form alone: what is neither a string nor a
// list of blocks is no content.
func (c *content) UnmarshalJSON(text []byte) error {
	*c = nil
	switch text[0] {
	case '"':
		one := block{Type: "text"}
		if err := json.Unmarshal(text, &one.Text); err != nil {
			return err
		}
		*c = content{one}
	case '[':
		return tolerate(json.Unmarshal(text, (*[]block)(c)))
	}
	return nil
}

// text is the texts of all blocks, a line each; another block is its kind in
// brackets.
func (c content) text() string {
	parts := make([]string, len(c))
	for i, b := range c {
		if parts[i] = b.Text; b.Type != "text" {
			parts[i] = "[" + b.Type + "]"
		}
	}
	return strings.Join(parts, "\n")
}

// apiUsage is a count of tokens as the Messages API writes it.
type apiUsage struct {
	InputTokens              int64 `json:"input_tokens"`
	OutputTokens             int64 `json:"output_tokens"`
	CacheReadInputTokens     int64 `json:"cache_read_input_tokens"`
	CacheCreationInputTokens int64 `json:"cache_creation_input_tokens"`
}

// over returns u where it counts something, field by field, else older: in a
// stream each count stands for all so far, and one that is left out stays.
func (u apiUsage) over(older apiUsage) apiUsage {
	pick := func(a, b int64) int64 {
		if a > 0 {
			return a
		}
		return b
	}
	return apiUsage{
		InputTokens:              pick(u.InputTokens, older.InputTokens),
		OutputTokens:             pick(u.OutputTokens, older.OutputTokens),
		CacheReadInputTokens:     pick(u.CacheReadInputTokens, older.CacheReadInputTokens),
		CacheCreationInputTokens: pick(u.CacheCreationInputTokens, older.CacheCreationInputTokens),
	}
}

// modelUsage is what one model was used for, as a result or a transcript says.
type modelUsage struct {
	agent.Usage
	CostUSD float64 `json:"costUSD"`
}

// parse reads a line. What is not a message of some kind is not ok.
func parse(line []byte) (m message, ok bool) {
	if err := tolerate(json.Unmarshal(line, &m)); err != nil {
		return message{}, false
	}
	return m, m.Type != ""
}

// tolerate forgives a field of another type than is known: it stays empty, and
// the others are read. A result must not be missed for it.
func tolerate(err error) error {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		return nil
	}
	return err
}

// endsTurn reports whether m is a prompt's result. A task in the background
// begins a turn of its own when it ends, which nobody asked for.
func (m message) endsTurn() bool {
	return m.Type == "result" && m.Origin.Kind != "task-notification"
}

// lineReader reads lines of any length up to maxLine. Its memory is that of the
// longest line of late.
type lineReader struct {
	in   *bufio.Reader
	line []byte
	read int64 // bytes of all lines so far
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{in: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next line, which is good until the call after. Lines that are
// longer than maxLine are passed over.
func (r *lineReader) next() ([]byte, error) {
	const keep = 1 << 20 // of memory, from one line to the next
	if cap(r.line) > keep {
		r.line = nil
	}
	r.line = r.line[:0]
	tooLong := false
	for {
		part, err := r.in.ReadSlice('\n')
		r.read += int64(len(part))
		if tooLong = tooLong || len(r.line)+len(part) > maxLine; tooLong {
			r.line = nil
		} else {
			r.line = append(r.line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil && len(r.line) == 0:
			return nil, err
		case tooLong && err == nil:
			tooLong = false
		default:
			// A last line without an end is a line; the error comes again.
			return r.line, nil
		}
	}
}
