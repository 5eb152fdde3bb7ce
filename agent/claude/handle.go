package claude

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"claude-runner/agent"
)

// outputTool is the tool by which the CLI takes an output by schema. It is no
// tool of the agent's: its call is the answer.
const outputTool = "StructuredOutput"

// handle makes events of a message, and reports whether it is the turn's result.
func (t *turn) handle(m message) (done bool) {
	switch m.Type {
	case "system":
		t.system(m)
	case "stream_event":
		if m.ParentID == "" {
			t.stream(m.Event)
		}
	case "assistant":
		t.assistant(m)
		t.watchOn()
	case "user":
		t.user(m)
		t.watchOn()
	}
	return m.endsTurn()
}

// watchOn lets the watchdog run unless a tool does, whose time is its own. While
// a subagent works, nothing tells its model's silence from its tools'.
func (t *turn) watchOn() {
	if t.watch.reset(); len(t.open) > 0 {
		t.watch.stop()
	}
}

func (t *turn) system(m message) {
	switch m.Subtype {
	case "init":
		t.init(m)
		t.watchOn()
	case "thinking_tokens":
		t.watchOn()
	case "status":
		// A summary of a long conversation is written without a word until it
		// is done.
		switch m.Status {
		case "requesting":
			t.asked()
		case "compacting":
			t.watch.stop()
		case "":
			t.watchOn()
		}
	case "api_retry":
		t.retry(m)
	}
}

func (t *turn) init(m message) {
	if isUUID(m.SessionID) {
		t.result.AgentID = m.SessionID
	}
	if t.inited {
		return
	}
	t.inited = true
	if m.Model != "" {
		t.result.Model = m.Model
	}
	tools := slices.DeleteFunc(m.Tools, func(name string) bool { return name == outputTool })
	t.emit(agent.Event{Type: agent.EventInit, Model: t.result.Model, Tools: tools, AgentID: t.result.AgentID})
}

func (t *turn) retry(m message) {
	delay := time.Duration(m.RetryDelay * float64(time.Millisecond))
	what := "could not be reached"
	if m.ErrorStatus != 0 {
		what = fmt.Sprintf("answered %d %s", m.ErrorStatus, http.StatusText(m.ErrorStatus))
		if m.ErrorStatus == 529 {
			what = "answered 529: it is overloaded"
		}
		t.watchOn() // it is not silent
	}
	t.watch.extend(min(max(delay, 0), time.Hour))
	t.emit(agent.Event{Type: agent.EventStatus, Status: &agent.Status{
		Phase:   "retry",
		Message: fmt.Sprintf("the model API %s; trying again in %v", what, delay.Round(100*time.Millisecond)),
		Attempt: m.Attempt,
	}})
}

// stream handles the main agent's stream. The tool calls in it come whole, in
// an assistant message.
func (t *turn) stream(e streamEvent) {
	t.watch.reset()
	switch e.Type {
	case "message_start":
		t.newCall(e.Message.ID)
		t.streamed[t.call] = true
		t.calls[t.call] = e.Message.Usage
	case "content_block_delta":
		switch e.Delta.Type {
		case "text_delta":
			t.say(e.Delta.Text)
		case "thinking_delta":
			t.emitText(agent.EventThinking, e.Delta.Thinking, "")
		}
	case "message_delta":
		t.calls[t.call] = e.Usage.over(t.calls[t.call])
		t.emitUsage(t.calls[t.call], "")
	case "message_stop":
		t.watchOn()
	}
}

// newCall begins a model call of the main agent, if id is not the one that is.
func (t *turn) newCall(id string) {
	if id != t.call {
		t.call = id
		t.text.Reset()
	}
}

func (t *turn) say(text string) {
	t.text.WriteString(text)
	t.emitText(agent.EventText, text, "")
}

func (t *turn) emitText(kind agent.EventType, text, parent string) {
	if text != "" {
		t.emit(agent.Event{Type: kind, Text: text, ParentID: parent})
	}
}

func (t *turn) emitUsage(u apiUsage, parent string) {
	usage := agent.Usage(u)
	t.emit(agent.Event{Type: agent.EventUsage, Usage: &usage, ParentID: parent})
}

// assistant handles a block that is complete. The main agent's words and
// thoughts have come as a stream before it, but for an answer that the CLI asked
// for again without streaming, and a subagent's.
func (t *turn) assistant(m message) {
	if m.Message.Model == "<synthetic>" {
		// The CLI's own words; those of an error come again in the result.
		if m.Error != "" {
			t.apiError = m.Error
		}
		return
	}
	t.apiError = ""
	id, main := m.Message.ID, m.ParentID == ""
	if main && id != "" {
		t.newCall(id)
		if _, seen := t.calls[id]; !seen {
			t.calls[id] = m.Message.Usage
			t.emitUsage(m.Message.Usage, "")
		}
	}
	for _, b := range m.Message.Content {
		switch {
		case b.Type == "tool_use":
			t.toolStart(b, m.ParentID)
		case b.Type == "text" && !main:
			t.emitText(agent.EventText, b.Text, m.ParentID)
		case b.Type == "text" && !t.streamed[id]:
			t.say(b.Text)
		case b.Type == "thinking" && !t.streamed[id]:
			t.emitText(agent.EventThinking, b.Thinking, m.ParentID)
		}
	}
}

func (t *turn) toolStart(b block, parent string) {
	t.names[b.ID] = b.Name
	if parent == "" {
		t.open[b.ID] = true
	}
	if b.Name == outputTool {
		return
	}
	if !t.used[b.Name] {
		t.used[b.Name] = true
		t.result.Tools = append(t.result.Tools, b.Name)
	}
	t.emit(agent.Event{Type: agent.EventToolStart, Tool: b.Name, ToolID: b.ID, Input: b.Input, ParentID: parent})
}

// user handles what tools answered.
func (t *turn) user(m message) {
	for _, b := range m.Message.Content {
		if b.Type != "tool_result" {
			continue
		}
		delete(t.open, b.ToolUseID)
		name := t.names[b.ToolUseID]
		if name == outputTool {
			continue
		}
		t.emit(agent.Event{
			Type: agent.EventToolEnd, Tool: name, ToolID: b.ToolUseID, Result: b.result(), IsError: b.IsError, ParentID: m.ParentID,
		})
	}
}
