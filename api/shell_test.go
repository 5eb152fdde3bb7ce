package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"claude-runner/agent"
)

// shellDriver's agent is a shell in a real sandbox: a message is a line of
// shell code, and what it prints is the answer, but for lines that begin with
// "noise", which are events alone, and "FAIL code", which fails.
type shellDriver struct{}

const shellAgent = `while IFS= read -r line; do eval "$line"; echo END; done`

func (shellDriver) Command(l agent.Launch) (agent.Command, error) {
	env := map[string]string{"HOME": l.Home.Sandbox}
	maps.Copy(env, l.Env)
	return agent.Command{Argv: []string{"sh", "-c", shellAgent}, Env: env}, nil
}

func (shellDriver) SetEnv(agent.Launch, map[string]string) (bool, error) { return false, nil }

func (shellDriver) Open(l agent.Launch, stdin io.WriteCloser, stdout io.Reader) agent.Conversation {
	c := &shell{id: l.Resume, stdin: stdin, lines: make(chan string), alive: true}
	if c.id == "" {
		c.id = l.NewID
	}
	go func() {
		defer close(c.lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	return c
}

type shell struct {
	id    string
	stdin io.WriteCloser
	lines chan string
	alive bool
}

func (c *shell) Ready() <-chan struct{} { return ready }

func (c *shell) Rehearse(context.Context) error { return nil }

// ready is closed: a shell takes lines from its beginning.
var ready = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (c *shell) Alive() bool { return c.alive }

// Offset is that of an agent whose turns are never read again.
func (c *shell) Offset() int64 { return 0 }

func (c *shell) Turn(ctx context.Context, t agent.Turn, emit func(agent.Event)) (agent.Result, error) {
	r := agent.Result{
		AgentID: c.id, Model: "sh", CostUSD: 0.25, Turns: 1, Tools: []string{"sh"},
		Usage: agent.Usage{InputTokens: 3, OutputTokens: 5},
	}
	if _, err := fmt.Fprintln(c.stdin, t.Message); err != nil {
		c.alive = false
		return r, &agent.Error{Code: agent.CodeAgentExited, Message: err.Error()}
	}
	emit(agent.Event{Type: agent.EventInit, Model: "sh", Tools: []string{"sh"}})
	for {
		select {
		case <-ctx.Done():
			c.alive = false
			if errors.Is(context.Cause(ctx), agent.ErrDetached) {
				go func() { // nobody closes it; ends when its backend does
					for range c.lines {
					}
				}()
			}
			return r, context.Cause(ctx)
		case line, ok := <-c.lines:
			code, failed := strings.CutPrefix(line, "FAIL ")
			switch {
			case !ok:
				c.alive = false
				return r, &agent.Error{Code: agent.CodeAgentExited, Message: "the shell ended"}
			case line == "END":
				return r, nil
			case failed:
				return r, &agent.Error{Code: agent.ErrorCode(code), Message: "the shell was asked to fail"}
			case strings.HasPrefix(line, "noise"):
				emit(agent.Event{Type: agent.EventThinking, Text: line})
			default:
				r.Text = strings.TrimPrefix(r.Text+"\n"+line, "\n")
				emit(agent.Event{Type: agent.EventText, Text: line})
			}
		}
	}
}

func (c *shell) Close(ctx context.Context) error {
	err := c.stdin.Close()
	for {
		select {
		case _, ok := <-c.lines:
			if !ok {
				return err
			}
		case <-ctx.Done():
			go func() { // ends when Stop ends the output
				for range c.lines {
				}
			}()
			return context.Cause(ctx)
		}
	}
}
