package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"claude-runner/agent"
)

// rehearse answers a model call in place of an API: the rehearsal's question by a
// word in a stream, or as one object, that took no tokens.
func (call *modelCall) rehearse(w http.ResponseWriter) {
	type object = map[string]any
	usage := object{"input_tokens": 0, "output_tokens": 0}
	message := func(content []object, stop any) object {
		return object{
			"id": "msg_rehearsal", "type": "message", "role": "assistant", "model": call.model,
			"content": content, "stop_reason": stop, "stop_sequence": nil, "usage": usage,
		}
	}
	if call.metered && !bytes.Contains(call.body, []byte(agent.RehearsalQuestion)) {
		refuseModel(w, http.StatusBadRequest, "invalid_request_error", "This agent was started ahead of its first message, and has no model yet.")
		return
	}
	var asked struct{ Stream bool }
	_ = json.Unmarshal(call.body, &asked) // read took it for an object
	var answer any
	switch {
	case !call.metered:
		answer = object{"input_tokens": 1, "data": []object{}, "has_more": false}
	case !asked.Stream:
		answer = message([]object{{"type": "text", "text": rehearsed}}, "end_turn")
	}
	if answer != nil {
		text := encodeText(answer)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = io.WriteString(w, text) // who left needs none
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, e := range []object{
		{"type": "message_start", "message": message([]object{}, nil)},
		{"type": "content_block_start", "index": 0, "content_block": object{"type": "text", "text": ""}},
		{"type": "content_block_delta", "index": 0, "delta": object{"type": "text_delta", "text": rehearsed}},
		{"type": "content_block_stop", "index": 0},
		{"type": "message_delta", "delta": object{"stop_reason": "end_turn", "stop_sequence": nil}, "usage": usage},
		{"type": "message_stop"},
	} {
		_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", e["type"], encodeText(e))
	}
}

// rehearsed is what a rehearsal's model says.
const rehearsed = "Yes."

func encodeText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // it is texts and numbers
	}
	return string(text)
}
