package scripted

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync/atomic"
)

// message is the API's answer.
type message struct {
	Model        string        `json:"model"`
	ID           string        `json:"id"`
	Type         string        `json:"type"`
	Role         string        `json:"role"`
	Content      []outBlock    `json:"content"`
	StopReason   *string       `json:"stop_reason"`
	StopSequence *string       `json:"stop_sequence"`
	Usage        responseUsage `json:"usage"`
}

// responseUsage is usage as the API writes it.
type responseUsage struct {
	usage
	CacheCreated struct {
		FiveMinutes int64 `json:"ephemeral_5m_input_tokens"`
		OneHour     int64 `json:"ephemeral_1h_input_tokens"`
	} `json:"cache_creation"`
	ServiceTier string `json:"service_tier"`
}

// outBlock is a content block of an answer. Its fields depend on Type.
type outBlock struct {
	Type      string
	Text      string // of text and thinking
	Signature string // of thinking
	ID        string // of tool_use
	Name      string
	Input     json.RawMessage
	chunk     int // characters per delta
}

// MarshalJSON writes the fields that the block's type has, empty or not.
func (b outBlock) MarshalJSON() ([]byte, error) {
	switch b.Type {
	case "thinking":
		return encode(struct {
			Type      string `json:"type"`
			Thinking  string `json:"thinking"`
			Signature string `json:"signature"`
		}{b.Type, b.Text, b.Signature})
	case "tool_use":
		return encode(struct {
			Type  string          `json:"type"`
			ID    string          `json:"id"`
			Name  string          `json:"name"`
			Input json.RawMessage `json:"input"`
		}{b.Type, b.ID, b.Name, b.Input})
	default:
		return encode(struct {
			Type string `json:"type"`
			Text string `json:"text"`
		}{b.Type, b.Text})
	}
}

// defaultChunk is how many characters a delta has where the script is silent.
const defaultChunk = 24

// compose makes the answer that the rule gives to the request of the given
// size. An error is a mistake in the script.
func (s *Server) compose(r *rule, view View, in *incoming, size int) (*message, error) {
	out := &message{
		Model: in.Model, ID: s.ids.next("msg_"), Type: "message", Role: "assistant",
		Content: make([]outBlock, 0, len(r.Answer)),
	}
	stop, length := "end_turn", 0
	for i := range r.Answer {
		b, err := s.block(&r.Answer[i], view)
		if err != nil {
			return nil, fmt.Errorf("answer %d: %w", i+1, err)
		}
		if b.Type == "tool_use" {
			stop = "tool_use"
		}
		length += len(b.Text) + len(b.Name) + len(b.Input)
		out.Content = append(out.Content, b)
	}
	if r.StopReason != "" {
		stop = r.StopReason
	}
	out.StopReason = &stop
	out.Usage.usage = usage{Input: tokens(size), Output: tokens(length)}
	if r.Usage != nil {
		out.Usage.usage = *r.Usage
	}
	out.Usage.CacheCreated.FiveMinutes = out.Usage.CacheCreation
	out.Usage.ServiceTier = "standard"
	return out, nil
}

func (s *Server) block(b *block, view View) (outBlock, error) {
	out := outBlock{chunk: b.Chunk}
	if out.chunk == 0 {
		out.chunk = defaultChunk
	}
	var err error
	switch {
	case b.ToolUse != "":
		out.Type, out.Name, out.ID = "tool_use", b.ToolUse, s.ids.next("toolu_")
		out.Input, err = b.Input.render(view)
	case b.Thinking != nil:
		out.Type = "thinking"
		out.Text, err = b.Thinking.render(view)
		sum := sha256.Sum256([]byte(out.Text))
		out.Signature = base64.StdEncoding.EncodeToString(sum[:])
	default:
		out.Type = "text"
		out.Text, err = b.Text.render(view)
	}
	return out, err
}

// tokens reckons how many tokens so many bytes are: four to one, never none.
func tokens(bytes int) int64 { return int64(max(1, (bytes+3)/4)) }

// ids makes identifiers that no other server makes.
type ids struct {
	prefix string
	last   *atomic.Uint64
}

func newIDs() ids {
	var random [6]byte
	_, _ = rand.Read(random[:]) // never fails
	return ids{prefix: hex.EncodeToString(random[:]), last: new(atomic.Uint64)}
}

func (i ids) next(kind string) string {
	return fmt.Sprintf("%s01%s%06d", kind, i.prefix, i.last.Add(1))
}
