package claude

import (
	"context"
	"errors"
	"strings"
	"time"

	"claude-runner/agent"
)

// Turn implements agent.Conversation.
func (c *conversation) Turn(ctx context.Context, prompt agent.Turn, emit func(agent.Event)) (agent.Result, error) {
	text, err := promptText(prompt)
	if err != nil {
		return agent.Result{}, err
	}
	if ctx.Err() != nil {
		return agent.Result{}, context.Cause(ctx)
	}
	t := newTurn(c, emit)
	if prompt.Asked != nil {
		t.asked = prompt.Asked
	}
	c.setTurn(t)
	defer c.setTurn(nil)
	defer close(t.over)
	if prompt.Sent {
		return t.run(ctx, nil)
	}
	if err := c.send(ctx, userMessage(text)); err != nil {
		if ctx.Err() != nil {
			return agent.Result{}, err
		}
		return agent.Result{}, c.exited()
	}
	return t.run(ctx, c.written)
}

// promptText is what the CLI is given. A text that begins with a slash would be
// a command to the CLI itself; with a space before it, it is the model's.
func promptText(p agent.Turn) (string, error) {
	if strings.TrimSpace(p.Message) == "" {
		return "", agent.ErrEmptyMessage
	}
	text := p.Message
	if strings.TrimSpace(p.Context) != "" {
		text = "<context>\n" + strings.TrimSpace(p.Context) + "\n</context>\n\n" + text
	}
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\ufffd"), "\x00", "\ufffd")
	if strings.HasPrefix(text, "/") {
		text = " " + text
	}
	return text, nil
}

// turn is one prompt on its way to its result.
type turn struct {
	c     *conversation
	emit  func(agent.Event)
	asked func()        // the model has been
	in    chan message  // from the reader
	over  chan struct{} // closed when nobody reads in
	begun time.Time

	result agent.Result
	inited bool

	// The main agent's model calls, by message id.
	calls    map[string]apiUsage
	call     string          // the call that is streamed, or was last
	streamed map[string]bool // calls whose blocks came as a stream
	text     strings.Builder // of the last call

	names map[string]string // of tool calls, by id
	used  map[string]bool   // names in result.Tools
	open  map[string]bool   // the main agent's tool calls that run

	apiError string // the word of the last model error
	watch    watchdog
}

func newTurn(c *conversation, emit func(agent.Event)) *turn {
	return &turn{
		c: c, emit: emit, asked: func() {}, in: make(chan message), over: make(chan struct{}), begun: time.Now(),
		result: agent.Result{Model: c.launch.Model, AgentID: c.launch.Resume},
		calls:  map[string]apiUsage{}, streamed: map[string]bool{},
		names: map[string]string{}, used: map[string]bool{}, open: map[string]bool{},
		watch: newWatchdog(c.launch.Profile.StallTimeout),
	}
}

// run reads messages until the turn's result. Where the turn is to end early, it
// asks the CLI to, and waits a while for the result all the same: it says what
// the turn cost, and leaves a process that can take another.
//
// deaf is closed when the process takes no input any more; nil where that says
// nothing.
func (t *turn) run(ctx context.Context, deaf <-chan struct{}) (agent.Result, error) {
	defer t.watch.stop()
	var why error // the turn is to end early
	var patience <-chan time.Time
	end := func(cause error) {
		why, patience = cause, time.After(t.c.grace)
		t.watch.stop()
		t.c.tell(interrupt())
	}
	cancelled, refused := ctx.Done(), t.c.refused
	for {
		select {
		case m := <-t.in:
			if !t.handle(m) {
				continue
			}
			err := t.finish(m)
			if why != nil {
				err = why
			}
			return t.result, err
		case <-cancelled:
			cause := context.Cause(ctx)
			if errors.Is(cause, agent.ErrDetached) {
				return t.result, cause
			}
			cancelled, deaf = nil, t.c.written
			end(cause)
		case <-t.watch.expired():
			end(t.stalled())
		case <-refused:
			refused = nil
			end(t.c.exited())
		case <-deaf:
			// The process takes no input any more: it is ending, or of no use, and
			// knows of no interrupt.
			if deaf = nil; why == nil {
				why, patience = t.c.exited(), time.After(t.c.grace)
			} else {
				patience = time.After(min(t.c.grace, deafGrace))
			}
		case <-patience:
			t.c.lose()
			return t.unfinished(), why
		case <-t.c.ended:
			if why == nil {
				why = t.c.exited()
			}
			return t.unfinished(), why
		}
	}
}

// deafGrace is how long a process that takes no input may go on after its turn
// was to end.
const deafGrace = 200 * time.Millisecond

// unfinished is the result of a turn that the CLI did not end: what is known.
func (t *turn) unfinished() agent.Result {
	t.result.Text = t.text.String()
	t.result.Usage = t.observed()
	t.result.Turns = len(t.calls)
	t.result.Duration = time.Since(t.begun)
	return t.result
}

// observed is the usage of the model calls that were seen.
func (t *turn) observed() agent.Usage {
	var sum agent.Usage
	for _, u := range t.calls {
		sum = add(sum, agent.Usage(u))
	}
	return sum
}

func (t *turn) stalled() error {
	return failed(agent.CodeStalled, "the model sent nothing for %v: try again, or raise the agent's stall_timeout", t.c.launch.Profile.StallTimeout)
}

// exited is the error of a process that takes no turn to its end.
func (c *conversation) exited() error {
	select {
	case <-c.refused:
		c.mu.Lock()
		defer c.mu.Unlock()
		return failed(agent.CodeAgentFailed, "the agent did not take its prompt or its output's schema: %s", c.refusal)
	default:
		return failed(agent.CodeAgentExited, "the agent's process ended before its answer")
	}
}
