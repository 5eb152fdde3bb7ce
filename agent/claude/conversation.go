package claude

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"claude-runner/agent"
)

// Open implements agent.Driver. It tells the CLI its system prompt and the
// output's schema at once, so that a process that waits for its first prompt
// has them.
func (d driver) Open(l agent.Launch, stdin io.WriteCloser, stdout io.Reader) agent.Conversation {
	c := &conversation{
		launch:  l,
		grace:   d.options.Grace,
		out:     make(chan []byte, 16),
		closing: make(chan struct{}),
		written: make(chan struct{}),
		ended:   make(chan struct{}),
		began:   make(chan struct{}),
		refused: make(chan struct{}),
		ready:   make(chan struct{}),

		answered:  make(chan message, 1),
		rehearsed: make(chan message, 1),
	}
	if l.Resume != "" {
		c.restored = transcriptTotals(l.Home, l.Resume)
	}
	if !l.Recovered {
		c.out <- encode(initialize(l.Template))
	}
	go c.write(stdin)
	go c.read(newLineReader(stdout))
	return c
}

// conversation is one CLI process. Two goroutines live as long as the process
// and its pipes: one writes, one reads; a turn runs on its caller's.
type conversation struct {
	launch agent.Launch
	grace  time.Duration

	out     chan []byte   // lines for the CLI
	closing chan struct{} // closed by Close: nothing more is to be said
	written chan struct{} // closed when the writer has ended
	ended   chan struct{} // closed at the output's end
	began   chan struct{} // closed when a rehearsal or the first turn begins
	refused chan struct{} // closed when the CLI did not take prompt and schema
	ready   chan struct{} // closed when the CLI has taken prompt and schema, or has ended
	once    struct{ begin, close, refuse, ready sync.Once }

	answered  chan message // the answer to a rehearsal's question
	rehearsed chan message // the result of a rehearsal's turn

	restored totals // what a resumed conversation may be counted from

	offset atomic.Int64 // bytes of the output that were read

	mu      sync.Mutex
	current *turn
	lost    bool   // the process does something that no turn knows of
	refusal string // the CLI's words for why it refused
	results int    // turns that came to a result
	counted totals // what the last result stands for
}

var errClosed = errors.New("the agent's input is closed")

// Alive implements agent.Conversation.
//
// A budget is a process's, by the CLI's reckoning, and not a turn's: one turn
// is all that such a process is good for.
func (c *conversation) Alive() bool {
	select {
	case <-c.closing:
		return false
	case <-c.written:
		return false
	case <-c.ended:
		return false
	case <-c.refused:
		return false
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.lost && (c.launch.Profile.MaxBudgetUSD == 0 || c.results == 0)
}

// Close implements agent.Conversation. The CLI ends when its input does, once it
// has written its transcript. What it still says is read and dropped. Where ctx
// ends first, the conversation's goroutines end with its pipes, that is, with
// the sandbox.
func (c *conversation) Close(ctx context.Context) error {
	c.once.close.Do(func() { close(c.closing) })
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the agent's output to end: %w", context.Cause(ctx))
	}
}

// write gives the CLI its lines, and closes its input at the end.
func (c *conversation) write(stdin io.WriteCloser) {
	defer close(c.written)
	defer stdin.Close()
	for {
		select {
		case line := <-c.out:
			if _, err := stdin.Write(line); err != nil {
				return
			}
		case <-c.ended:
			return
		case <-c.closing:
			for len(c.out) > 0 {
				if _, err := stdin.Write(<-c.out); err != nil {
					return
				}
			}
			return
		}
	}
}

// send queues a line for the CLI.
func (c *conversation) send(ctx context.Context, v any) error {
	select {
	case <-c.closing:
		return errClosed
	default:
	}
	select {
	case c.out <- encode(v):
		return nil
	case <-c.closing:
		return errClosed
	case <-c.written:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// read gives the CLI's messages to the turn that is on. What comes before the
// first turn waits for it, what comes between turns is nobody's.
func (c *conversation) read(lines *lineReader) {
	defer c.setReady()
	defer close(c.ended)
	for {
		line, err := lines.next()
		if err != nil {
			return
		}
		m, ok := parse(line)
		c.offset.Store(lines.read)
		if !ok {
			continue
		}
		if lines.read <= c.launch.TurnFrom {
			c.remember(m)
			continue
		}
		switch m.Type {
		case "control_request":
			c.answer(m)
			continue
		case "control_response":
			c.settle(m)
			continue
		}
		select {
		case <-c.began:
		case <-c.closing:
			continue
		}
		if t := c.turnOn(); t != nil {
			select {
			case t.in <- m:
			case <-t.over:
			}
		} else if m.endsTurn() {
			offer(c.rehearsed, m)
		}
	}
}

// offer gives v to who waits for it, or drops it where there is no room.
func offer[T any](to chan<- T, v T) {
	select {
	case to <- v:
	default:
	}
}

// remember takes from a turn that had ended, when the output was first read,
// what the next one is counted from.
func (c *conversation) remember(m message) {
	if m.endsTurn() {
		c.count(totals{cost: max(m.TotalCostUSD, 0), models: m.ModelUsage}, agent.Usage(m.Usage))
	}
}

// settle takes the CLI's answer to what the driver has asked.
func (c *conversation) settle(m message) {
	switch m.Response.RequestID {
	case initializeID:
		if m.Response.Subtype == "error" {
			c.refuse(m.Response.Error)
		}
		c.setReady()
	case questionID:
		offer(c.answered, m)
	}
}

// Ready implements agent.Conversation.
func (c *conversation) Ready() <-chan struct{} { return c.ready }

func (c *conversation) setReady() { c.once.ready.Do(func() { close(c.ready) }) }

// Offset implements agent.Conversation.
func (c *conversation) Offset() int64 { return c.offset.Load() }

func (c *conversation) turnOn() *turn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

func (c *conversation) setTurn(t *turn) {
	c.mu.Lock()
	c.current = t
	c.mu.Unlock()
	c.begin()
}

// begin has the reader wait for no turn any more.
func (c *conversation) begin() { c.once.begin.Do(func() { close(c.began) }) }

func (c *conversation) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = true
}

func (c *conversation) refuse(words string) {
	c.mu.Lock()
	c.refusal = words
	c.mu.Unlock()
	c.once.refuse.Do(func() { close(c.refused) })
}

// answer answers what the CLI asks, since it waits for it without end: it may
// not do what it needs permission for, and nothing else is there to be had.
func (c *conversation) answer(m message) {
	response := map[string]any{"subtype": "error", "request_id": m.RequestID, "error": "not supported: " + m.Request.Subtype}
	if m.Request.Subtype == "can_use_tool" {
		response = map[string]any{"subtype": "success", "request_id": m.RequestID, "response": map[string]any{
			"behavior": "deny", "message": "Nobody can be asked for permission here: do without it.",
		}}
	}
	c.tell(map[string]any{"type": "control_response", "response": response})
}

// tell queues a line for the CLI, or drops it where the queue is full: such a
// CLI does not listen.
func (c *conversation) tell(v any) { offer(c.out, encode(v)) }

// The driver's own requests of which it awaits the answer.
const (
	initializeID = "initialize"
	questionID   = "rehearsal"
)

func initialize(t *agent.Template) any {
	request := map[string]any{"subtype": "initialize"}
	if t != nil {
		request["systemPrompt"] = t.Prompt()
		if t.Schema != nil {
			request["jsonSchema"] = plainSchema(t.Schema)
		}
	}
	return map[string]any{"type": "control_request", "request_id": initializeID, "request": request}
}

func interrupt() any {
	return map[string]any{"type": "control_request", "request_id": "interrupt", "request": map[string]any{"subtype": "interrupt"}}
}

// userMessage is a turn's: content is a text, or a list of blocks.
func userMessage(content any) any {
	return map[string]any{"type": "user", "message": map[string]any{"role": "user", "content": content}}
}

// encode makes a line. A line that is not JSON would end the CLI.
func encode(v any) []byte {
	line, err := json.Marshal(v)
	if err != nil {
		panic(err) // all that is encoded here is maps, texts and JSON that was parsed
	}
	return append(line, '\n')
}
