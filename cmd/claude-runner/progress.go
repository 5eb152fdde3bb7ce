package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/fasthttp/websocket"

	"claude-runner/cmd/claude-runner/internal/client"
)

// printer shows one task's events to a person.
type printer struct {
	w      io.Writer
	open   string        // the type of the text that the cursor stands behind; "" at a line's start
	told   bool          // the task's failure was shown
	known  chan struct{} // closed when taskID is set
	taskID string
}

func newPrinter(w io.Writer) *printer { return &printer{w: w, known: make(chan struct{})} }

// follow prints the first task that is queued from now on, until it ends or
// the stream does.
func (p *printer) follow(conn *websocket.Conn) {
	defer p.end()
	for {
		var e client.Event
		if err := conn.ReadJSON(&e); err != nil {
			return
		}
		if p.taskID == "" && e.Type == "task_queued" {
			p.taskID = e.TaskID
			close(p.known)
		}
		if e.TaskID != "" && e.TaskID == p.taskID && p.print(e) {
			return
		}
	}
}

// shownLength bounds what a tool's input and result take of the screen.
const shownLength = 200

// print shows one event, and reports whether it is the task's end.
func (p *printer) print(e client.Event) (end bool) {
	switch e.Type {
	case "task_queued":
		if e.Position > 0 {
			p.line("· waiting behind %d", e.Position)
		}
	case "task_start":
		p.line("· starting")
	case "init":
		p.line("· %s on %s", e.Model, e.Backend)
	case "thinking", "text":
		p.piece(e.Type, e.Text)
	case "tool_start":
		p.line("→ %s %s", e.Tool, short(toolInput(e.Input)))
	case "tool_end":
		mark := "←"
		if e.IsError {
			mark = "✗"
		}
		p.line("%s %s", mark, short(e.Result))
	case "status":
		if e.Status != nil {
			p.line("· %s", e.Status.Message)
		}
	case "task_complete":
		p.line("· done")
		return true
	case "task_error", "abort":
		p.line("✗ %s", e.Error)
		p.told = true
		return true
	}
	return false
}

func (p *printer) line(format string, args ...any) {
	p.end()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// piece prints a part of a text that goes on.
func (p *printer) piece(kind, text string) {
	if p.open != kind {
		p.end()
		if kind == "thinking" {
			fmt.Fprint(p.w, "(thinking) ")
		}
	}
	fmt.Fprint(p.w, printable(text))
	p.open = kind
}

func (p *printer) end() {
	if p.open != "" {
		fmt.Fprintln(p.w)
		p.open = ""
	}
}

// toolInput shows a command as it is, and other input as JSON.
func toolInput(raw json.RawMessage) string {
	var bash struct {
		Command string `json:"command"`
	}
	if err := json.Unmarshal(raw, &bash); err == nil && bash.Command != "" {
		return bash.Command
	}
	return string(raw)
}

func short(s string) string {
	s = strings.Join(strings.Fields(printable(s)), " ")
	if r := []rune(s); len(r) > shownLength {
		return string(r[:shownLength]) + " …"
	}
	return s
}

// printable takes out what would steer the terminal: an agent's words are not
// trusted with it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f) {
			return r
		}
		return -1
	}, s)
}
