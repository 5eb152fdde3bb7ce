package nothing

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// agent is one process's conversation.
type agent struct {
	turn []byte // what a turn says: the same each time
}

// newAgent reads the command line.
func newAgent(args []string) *agent {
	model, session := "nothing", "00000000-0000-4000-8000-000000000000"
	for i := 0; i+1 < len(args); i++ {
		switch args[i] {
		case "--model":
			model = args[i+1]
		case "--session-id":
			session = args[i+1]
		case "--resume": // an id, or the path of a transcript that is called so
			name := args[i+1][strings.LastIndexByte(args[i+1], '/')+1:]
			session = strings.TrimSuffix(name, ".jsonl")
		}
	}
	type object = map[string]any
	a := &agent{}
	for _, line := range []any{
		object{"type": "system", "subtype": "init", "session_id": session, "model": model, "tools": []string{}},
		object{"type": "assistant", "session_id": session, "message": object{
			"role": "assistant", "model": model, "content": []object{{"type": "text", "text": Answer}},
		}},
		object{
			"type": "result", "subtype": "success", "is_error": false, "result": Answer, "session_id": session,
			"num_turns": 0, "total_cost_usd": 0, "usage": object{}, "modelUsage": object{},
		},
	} {
		a.turn = append(a.turn, encode(line)...)
	}
	return a
}

// message is what the agent reads of a line.
type message struct {
	Type      string `json:"type"`
	RequestID string `json:"request_id"`
	Request   struct {
		Subtype string `json:"subtype"`
	} `json:"request"`
}

// run takes turns until its input ends.
func (a *agent) run(in io.Reader, out io.Writer) error {
	lines := bufio.NewReaderSize(in, 8<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the next message: %w", err)
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("read a message: %w", err) // as the CLI ends then
		}
		if reply := a.reply(m); reply != nil {
			if _, err := out.Write(reply); err != nil {
				return fmt.Errorf("answer: %w", err)
			}
		}
	}
}

// reply returns what the agent says to a message; nil is nothing.
func (a *agent) reply(m message) []byte {
	switch m.Type {
	case "user":
		return a.turn
	case "control_request":
		response := map[string]any{"subtype": "success", "request_id": m.RequestID}
		if s := m.Request.Subtype; s != "initialize" && s != "interrupt" {
			response["subtype"], response["error"] = "error", "not supported: "+s
		}
		return encode(map[string]any{"type": "control_response", "response": response})
	default:
		return nil
	}
}

func encode(v any) []byte {
	line, err := json.Marshal(v)
	if err != nil {
		panic(err) // it is texts and numbers
	}
	return append(line, '\n')
}
