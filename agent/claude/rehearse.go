package claude

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"claude-runner/agent"
)

// Rehearse implements agent.Conversation, in two steps. A side question takes the
// model's call with its answer, and is in no memory. A turn whose message is empty
// takes all the rest; its model refuses it, so that the conversation is as empty as
// it was: the CLI sends its model neither an empty message nor a refusal. In its
// transcript it notes the refusal.
func (c *conversation) Rehearse(ctx context.Context) error {
	c.begin() // what comes of it is nobody's, as between two turns
	m, err := c.rehearse(ctx, sideQuestion(), c.answered)
	if err != nil || m.Response.Subtype == "error" || !c.rehearsesTurns() {
		return err
	}
	m, err = c.rehearse(ctx, userMessage([]any{}), c.rehearsed)
	if err == nil && !m.IsError {
		err = errors.New("rehearse: the model answered a turn, which the agent would remember")
	}
	return err
}

// rehearse takes one step, and waits for what comes of it and of no earlier one.
func (c *conversation) rehearse(ctx context.Context, step any, done <-chan message) (message, error) {
	select {
	case <-done:
	default:
	}
	if err := c.send(ctx, step); err != nil {
		return message{}, fmt.Errorf("rehearse: %w", err)
	}
	select {
	case m := <-done:
		return m, nil
	case <-c.ended:
		return message{}, fmt.Errorf("rehearse: %w", errClosed)
	case <-ctx.Done():
		return message{}, fmt.Errorf("rehearse: %w", context.Cause(ctx))
	}
}

// rehearsesTurns reports whether a turn that is refused leaves nothing behind: in a
// conversation that goes on, the transcript's next lines would hang on the empty
// message, which is not written down; and hooks of plugins would be run for it.
func (c *conversation) rehearsesTurns() bool {
	return c.launch.Resume == "" && !slices.ContainsFunc(c.launch.Profile.ExtraArgs, bringsPlugins)
}

func sideQuestion() any {
	return map[string]any{"type": "control_request", "request_id": questionID, "request": map[string]any{
		"subtype": "side_question", "question": agent.RehearsalQuestion,
	}}
}
