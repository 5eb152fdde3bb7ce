package gateway

import (
	"encoding/json"
	"testing"
)

const sampleStream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}}\n\n" +
	"event: ping\ndata: {\"type\":\"ping\"}\n\n" +
	"event: message_delta\r\ndata: {\"type\":\"message_delta\",\r\ndata: \"usage\":{\"output_tokens\":20}}\r\n\r\n" +
	"data: {\"type\":\"message_stop\"}\r\r"

// However a stream is cut in pieces, the reader finds the same in it.
func FuzzEventReader(f *testing.F) {
	f.Add([]byte(sampleStream), uint8(1))
	f.Add([]byte(sampleStream), uint8(7))
	f.Add([]byte("data:{\"type\":\"message_delta\",\"usage\":{\"output_tokens\":-5}}\n\n"), uint8(3))
	f.Add([]byte("\r\n\r\n:\nevent\ndata\n\n"), uint8(2))
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		whole, pieces := newEventReader("m"), newEventReader("m")
		whole.feed(stream)
		feedPieces(stream, step, pieces.feed)
		if whole.announced() != pieces.announced() || whole.whole() != pieces.whole() {
			t.Errorf("whole %+v %t, in pieces %+v %t", whole.announced(), whole.whole(), pieces.announced(), pieces.whole())
		}
		u := whole.announced()
		if min(u.InputTokens, u.OutputTokens, u.CacheReadInputTokens, u.CacheCreationInputTokens, u.hour) < 0 {
			t.Errorf("negative: %+v", u)
		}
	})
}

// A valid object is whole for the scanner, with the values that encoding/json
// finds; pieces make no difference.
func FuzzFieldScanner(f *testing.F) {
	f.Add([]byte(`{"model":"a","usage":{"input_tokens":1},"x":[{"model":"b"}]}`), uint8(1))
	f.Add([]byte(`{"a":"\"},\\","mod\u0065l" : "x" }`), uint8(3))
	f.Add([]byte(`{"model":"a"}}`), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		whole, pieces := newFieldScanner("model"), newFieldScanner("model")
		whole.feed(data)
		feedPieces(data, step, pieces.feed)
		if whole.done != pieces.done || whole.bad != pieces.bad || string(whole.values["model"]) != string(pieces.values["model"]) {
			t.Errorf("whole %+v\npieces %+v", whole, pieces)
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(data, &object) != nil || object == nil || !isASCII(data) {
			return
		}
		if !whole.done || whole.bad {
			t.Errorf("%q is an object, and not for the scanner: %+v", data, whole)
		}
		var want, got any
		_ = json.Unmarshal(object["model"], &want)
		_ = json.Unmarshal(whole.values["model"], &got)
		if text, ok := want.(string); ok && !whole.repeated && got != text {
			t.Errorf("%q: model %v, want %q", data, got, text)
		}
	})
}

func isASCII(data []byte) bool {
	for _, c := range data {
		if c > '~' {
			return false
		}
	}
	return true
}

func feedPieces(data []byte, step uint8, feed func([]byte)) {
	n := int(step%16) + 1
	for len(data) > 0 {
		k := min(n, len(data))
		feed(data[:k])
		data = data[k:]
	}
}

func TestEventReader(t *testing.T) {
	r := newEventReader("asked")
	r.feed([]byte(sampleStream))
	if got := r.announced(); got.model != "m" || got.InputTokens != 10 || got.OutputTokens != 20 || !r.whole() {
		t.Errorf("%+v, whole %t", got, r.whole())
	}
	// A line without an end takes a bounded room.
	r = newEventReader("asked")
	for range 100 {
		r.feed(make([]byte, 64<<10))
	}
	if cap(r.line) > 2*maxEvent {
		t.Errorf("%d bytes are kept", cap(r.line))
	}
	r.feed([]byte("\n\n" + sampleStream))
	if !r.whole() {
		t.Error("not read after a long line")
	}
}
