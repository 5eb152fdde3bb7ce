package session_test

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"claude-runner/agent"
	"claude-runner/session"
)

const hunter = "hunter2-correct/horse+battery"

func TestMaskKnowsHowSecretsAreWritten(t *testing.T) {
	odd := "pa\"ss<wörd>&\n-----\nsecond line of it\n"
	m := session.NewMask(agent.ModelAPI{APIKey: "sk-ant-api03-model-key"}, agent.Profile{
		Secrets: map[string]agent.Secret{"TOKEN": hunter, "ODD": agent.Secret(odd), "SHORT": "abc12"},
		Env:     map[string]string{"STAGE": "production", "URL": "https://shop.example.com/api", "DB": "postgres://app:s3cr3t-pw@db/x"},
	}, map[string]string{
		"ACCESS_KEY": "akey-123456", "userPassword": "Tr0ub4dor", "USER_ID": "550e8400-e29b-41d4-a716-446655440000",
		"X": "dGhpc0lzUmFuZG9tMTIzNDU2Nzg5MA", "REGION": "eu-central-1", "KEYBOARD": "qwertz-de", "TOKENIZER": "cl100k_base",
	})
	encoded, _ := json.Marshal(odd)
	masked := map[string]string{
		"as it is":              hunter,
		"the model's":           "sk-ant-api03-model-key",
		"escaped for JSON":      strings.Trim(string(encoded), `"`),
		"escaped for a URL":     url.QueryEscape(hunter),
		"base64":                base64.StdEncoding.EncodeToString([]byte(hunter)),
		"a line of it":          "second line of it",
		"a task's, by name":     "akey-123456",
		"in camel case":         "Tr0ub4dor",
		"a task's, by look":     "dGhpc0lzUmFuZG9tMTIzNDU2Nzg5MA",
		"the password of a URL": "s3cr3t-pw",
	}
	for name, text := range masked {
		if got := m.Apply("x " + text + " y"); strings.Contains(got, text) || !strings.HasPrefix(got, "x [secret]") || !strings.HasSuffix(got, " y") {
			t.Errorf("%s: %q", name, got)
		}
	}
	for before := range 4 {
		text := base64.StdEncoding.EncodeToString([]byte("user:pass"[:before] + hunter + "\n"))
		got := m.Apply(text)
		if !strings.Contains(got, "[secret]") || len(got) > len("[secret]")+before*2+8 {
			t.Errorf("base64 behind %d bytes: %q of %q", before, got, text)
		}
	}
	for _, text := range []string{"production", "https://shop.example.com/api", "postgres://app:", "550e8400-e29b-41d4-a716-446655440000", "eu-central-1", "abc12", "qwertz-de", "cl100k_base"} {
		if got := m.Apply(text); got != text {
			t.Errorf("%q is no secret, but is told as %q", text, got)
		}
	}
}

func TestMaskKeepsJSON(t *testing.T) {
	m := session.NewMask(agent.ModelAPI{}, agent.Profile{Secrets: map[string]agent.Secret{"A": "pass\"word\n", "B": "12345678"}}, nil)
	tests := []struct{ name, text, want string }{
		{"nothing to hide", `{"b": [1, 2.5e3, true, null], "a": "x"}`, `{"b": [1, 2.5e3, true, null], "a": "x"}`},
		{"a string", `{"cmd": "echo pass\"word\n now"}`, `{"cmd": "echo [secret]\n now"}`},
		{"escaped otherwise", `{"cmd": "\u0070ass\u0022word"}`, `{"cmd": "[secret]"}`},
		{"a key", `{"pass\"word": 1}`, `{"[secret]": 1}`},
		{"a number", `{"pin": 12345678, "n": -1}`, `{"pin": "[secret]", "n": -1}`},
		{"JSON in JSON", `{"content": "{\"p\": \"pass\\\"word\"}"}`, `{"content": "{\"p\": \"[secret]\"}"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := m.JSON(json.RawMessage(tt.text))
			if string(got) != tt.want || !json.Valid(got) {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestMaskOfEvents(t *testing.T) {
	next, rest := session.NewMask(agent.ModelAPI{}, agent.Profile{Secrets: map[string]agent.Secret{"A": "hunter2"}}, nil).Events()
	text := func(parent, s string) agent.Event {
		return agent.Event{Type: agent.EventText, Text: s, ParentID: parent}
	}
	thought := agent.Event{Type: agent.EventThinking, Text: "hunt"}
	tool := agent.Event{Type: agent.EventToolStart, Tool: "Bash", Input: json.RawMessage(`{"command":"echo hunter2"}`)}
	steps := []struct {
		in   agent.Event
		want []agent.Event
	}{
		{text("", "it is hun"), []agent.Event{text("", "it is ")}},
		{text("", "ter"), nil},
		{text("", "2, or hunter"), []agent.Event{text("", "[secret], or ")}},
		{tool, []agent.Event{text("", "hunter"), {Type: agent.EventToolStart, Tool: "Bash", Input: json.RawMessage(`{"command":"echo [secret]"}`)}}},
		{thought, nil},
		{text("", "a h"), []agent.Event{thought, text("", "a ")}},
		{text("sub", "h"), []agent.Event{text("", "h")}},
		{agent.Event{Type: agent.EventToolEnd, Result: "hunter2\n"}, []agent.Event{text("sub", "h"), {Type: agent.EventToolEnd, Result: "[secret]\n"}}},
		{text("", "the end: h"), []agent.Event{text("", "the end: ")}},
	}
	for i, s := range steps {
		if diff := cmp.Diff(s.want, next(s.in)); diff != "" {
			t.Errorf("event %d: %s", i, diff)
		}
	}
	if diff := cmp.Diff([]agent.Event{text("", "h")}, rest()); diff != "" {
		t.Error(diff)
	}
	if got := rest(); got != nil {
		t.Errorf("told twice: %v", got)
	}
}

// However a text is cut, all of it is told, and what is masked is what a plain
// search finds.
func TestMaskOfPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[abc]{1,6}`)
		secrets := rapid.SliceOfN(word, 1, 5).Draw(t, "secrets")
		text := rapid.StringMatching(`[abcd]{0,60}`).Draw(t, "text")
		add, end := session.MaskOf(secrets...).Pieces()
		var got strings.Builder
		for rest := text; rest != ""; {
			n := rapid.IntRange(0, len(rest)).Draw(t, "cut")
			got.WriteString(add(rest[:n]))
			rest = rest[n:]
			if n == 0 {
				got.WriteString(add(rest[:1]))
				rest = rest[1:]
			}
		}
		got.WriteString(end())
		if want := plainMask(text, secrets); got.String() != want {
			t.Fatalf("%q without %q is %q, want %q", text, secrets, got.String(), want)
		}
	})
}

// plainMask masks every run of overlapping secrets.
func plainMask(text string, secrets []string) string {
	hidden := make([]bool, len(text))
	joined := make([]bool, len(text)+1) // a secret goes across here
	for _, s := range secrets {
		for i := range text {
			if strings.HasPrefix(text[i:], s) {
				for k := range s {
					hidden[i+k] = true
					joined[i+k] = joined[i+k] || k > 0
				}
			}
		}
	}
	var out strings.Builder
	for i := range text {
		switch {
		case !hidden[i]:
			out.WriteByte(text[i])
		case !joined[i]:
			out.WriteString("[secret]")
		}
	}
	return out.String()
}

func BenchmarkMask(b *testing.B) {
	m := session.NewMask(agent.ModelAPI{APIKey: "sk-ant-api03-0123456789abcdef0123456789abcdef"}, agent.Profile{Secrets: map[string]agent.Secret{
		"A": hunter, "B": "another-secret-value", "C": agent.Secret(strings.Repeat("a line of a key in a file\n", 30)),
	}}, nil)
	b.Run("delta", func(b *testing.B) {
		add, _ := m.Pieces()
		for b.Loop() {
			add("Here is a piece. ")
		}
	})
	b.Run("result of 1 MiB", func(b *testing.B) {
		text := strings.Repeat("The quick brown fox jumps over the lazy dog\n", 1<<20/44)
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			m.Apply(text)
		}
	})
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			session.NewMask(agent.ModelAPI{APIKey: "sk-ant-api03-0123456789abcdef0123456789abcdef"}, agent.Profile{Secrets: map[string]agent.Secret{"A": hunter, "B": "another-secret-value"}}, nil)
		}
	})
}
