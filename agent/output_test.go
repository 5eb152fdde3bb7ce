package agent_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"claude-runner/agent"
)

// TestParseOutput runs the folders of testdata/output: answer.md is the
// answer's text, structured.json what was given by schema, OUTPUT.md and
// output.schema.json are the template's; want.json is the output, want.error a
// part of the error.
func TestParseOutput(t *testing.T) {
	folders, err := filepath.Glob("testdata/output/*")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, dir := range folders {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			template := agent.Template{Output: read(t, dir, "OUTPUT.md"), Schema: json.RawMessage(read(t, dir, "output.schema.json"))}
			if len(template.Schema) == 0 {
				template.Schema = nil
			}
			result := agent.Result{Text: strings.TrimSuffix(read(t, dir, "answer.md"), "\n"), Structured: json.RawMessage(read(t, dir, "structured.json"))}
			output, err := template.ParseOutput(result)
			if diff := cmp.Diff(parse(t, read(t, dir, "want.json")), parse(t, string(output))); diff != "" {
				t.Error(diff)
			}
			want := strings.TrimSpace(read(t, dir, "want.error"))
			if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("error %q, want %q", err, want)
			}
		})
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

func parse(t *testing.T, text string) any {
	t.Helper()
	if strings.TrimSpace(text) == "" {
		return nil
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func TestParseOutputTellsNothingFromNotValid(t *testing.T) {
	template := agent.Template{Schema: json.RawMessage(`{"type": "object", "required": ["a"]}`)}
	if _, err := template.ParseOutput(agent.Result{Text: "words"}); !errors.Is(err, agent.ErrNoOutput) {
		t.Errorf("words alone: %v", err)
	}
	if _, err := template.ParseOutput(agent.Result{Text: "{}"}); err == nil || errors.Is(err, agent.ErrNoOutput) {
		t.Errorf("an object that will not do: %v", err)
	}
}

var withOutput = agent.Template{Output: "Answer as JSON."}

// Any object is found behind any prose, in a fence or bare, if what follows has
// no object of its own.
func TestParseOutputFindsAnyObject(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		object := anyObject(t, 3)
		text, err := json.MarshalIndent(object, "", rapid.SampledFrom([]string{"", "  ", "\t"}).Draw(t, "indent"))
		if err != nil {
			t.Fatal(err)
		}
		before := rapid.StringMatching(`[a-z .,"'{}\[\]\\:0-9\n]{0,60}`).Draw(t, "before")
		after := rapid.StringMatching(`[a-z .,"'}\[\]\\:0-9\n]{0,60}`).Draw(t, "after")
		wrap := rapid.SampledFrom([]string{"%", "```json\n%\n```", "```\n%\n```", "[%]", "Answer: %.", "{broken: %"}).Draw(t, "wrap")
		answer := before + "\n" + strings.ReplaceAll(wrap, "%", string(text)) + after
		output, err := withOutput.ParseOutput(agent.Result{Text: answer})
		if swallowed(before) {
			// An open brace and quote of the prose may take the object in.
			return
		}
		if err != nil {
			t.Fatalf("%v in %q", err, answer)
		}
		var got any
		if err := json.Unmarshal(output, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(any(object), got); diff != "" {
			t.Fatalf("in %q:\n%s", answer, diff)
		}
	})
}

// swallowed reports whether prose could be the beginning of an object.
func swallowed(before string) bool {
	at := strings.LastIndexByte(before, '{')
	return at >= 0 && strings.HasPrefix(strings.TrimLeft(before[at+1:], " \n"), `"`)
}

func anyObject(t *rapid.T, depth int) map[string]any {
	object := map[string]any{}
	for _, name := range rapid.SliceOfN(rapid.String(), 0, 4).Draw(t, "names") {
		object[name] = anyValue(t, depth)
	}
	return object
}

func anyValue(t *rapid.T, depth int) any {
	kinds := 4
	if depth > 0 {
		kinds = 6
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return rapid.StringMatching(`[a-z{}"\\\[\]:,`+"`"+`\n]{0,20}`).Draw(t, "text")
	case 1:
		return rapid.Float64Range(-1e9, 1e9).Draw(t, "number")
	case 2:
		return rapid.Bool().Draw(t, "bool")
	case 3:
		return nil
	case 4:
		list := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "length") {
			list = append(list, anyValue(t, depth-1))
		}
		return list
	}
	return anyObject(t, depth-1)
}

// Hostile answers take time in proportion to their length.
func TestParseOutputIsQuick(t *testing.T) {
	for name, part := range map[string]string{
		"braces": "{", "open objects": `{"a":`, "open objects and lists": `{"a":[`, "quoted braces": `{"{`, "names alone": `{"a"`,
		"broken pairs": `{"":x`, "small objects": `{"a":1}`, "escapes": `{"\`, "strings": `{"a":"{\"`, "spaces": "{ ", "in strings": `{"{":"{`,
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Repeat(part, 2<<20/len(part))
			begin := time.Now()
			_, err := withOutput.ParseOutput(agent.Result{Text: text + ` {"end": true}`})
			// Quadratic time would be hours.
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("took %v", took)
			} else {
				t.Logf("took %v, %v", took, err)
			}
		})
	}
}

func FuzzParseOutput(f *testing.F) {
	f.Add("text {\"a\": {\"b\": [1, \"}\"]}} text", `{"type": "object"}`)
	f.Add("```json\n{\"a\": 1}\n```", `{"type": "object", "required": ["b"]}`)
	f.Add(`{"a":"{"b":1}`, "")
	f.Add("{{{{", "{")
	f.Fuzz(func(t *testing.T, text, schema string) {
		output, err := withOutput.ParseOutput(agent.Result{Text: text})
		var object map[string]any
		if json.Unmarshal(output, &object) != nil {
			t.Fatalf("%q gives %q, which is no object (%v)", text, output, err)
		}
		if err == nil && !strings.Contains(strings.ToValidUTF8(text, "\ufffd"), string(output)) {
			t.Fatalf("%q gives %q, which is not in it", text, output)
		}
		template := agent.Template{Schema: json.RawMessage(schema)}
		if output, err := template.ParseOutput(agent.Result{Text: text}); err == nil && json.Unmarshal(output, &object) != nil {
			t.Fatalf("%q by %q gives %q", text, schema, output)
		}
	})
}
