package claude_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/agent"
	"claude-runner/agent/claude"
)

const (
	initLine   = `{"type":"system","subtype":"init","session_id":"` + newID + `","model":"claude-sonnet-4-6","tools":["Bash"]}`
	deltaLine  = `{"type":"stream_event","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"word "}}}`
	toolLine   = `{"type":"assistant","message":{"id":"m1","content":[{"type":"tool_use","id":"t1","name":"Bash","input":{}}]}}`
	toolEnd    = `{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"done"}]}}`
	resultLine = `{"type":"result","subtype":"success","is_error":false,"result":"answer","total_cost_usd":0.5}`
	abortLine  = `{"type":"result","subtype":"error_during_execution","is_error":true,"terminal_reason":"aborted_streaming","total_cost_usd":0.25}`
)

// fake is a CLI that a test plays.
type fake struct {
	agent.Conversation
	in  *bufio.Reader  // what the driver says
	out *io.PipeWriter // what the driver reads

	stdin *io.PipeReader
}

func newFake(t testing.TB, l agent.Launch, o claude.Options) *fake {
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	if l.Template == nil {
		l.Template = &agent.Template{System: "You are a test."}
	}
	f := &fake{Conversation: claude.New(o).Open(l, stdin, stdout), in: bufio.NewReader(in), out: out, stdin: in}
	t.Cleanup(f.die)
	return f
}

// die ends the process.
func (f *fake) die() {
	_ = f.stdin.CloseWithError(io.ErrClosedPipe)
	_ = f.out.Close()
}

func (f *fake) say(lines ...string) {
	for _, line := range lines {
		_, _ = io.WriteString(f.out, line+"\n")
	}
}

// hear returns the driver's next line, or "" at its end.
func (f *fake) hear() string {
	line, _ := f.in.ReadString('\n')
	return line
}

// hearUntil reads the driver's lines up to one with a text in it.
func (f *fake) hearUntil(text string) string {
	for {
		if line := f.hear(); line == "" || strings.Contains(line, text) {
			return line
		}
	}
}

func take(ctx context.Context, c agent.Conversation) turn {
	var got turn
	got.Result, got.err = c.Turn(ctx, agent.Turn{Message: "go"}, func(e agent.Event) { got.events = append(got.events, e) })
	return got
}

func TestWatchdogWaitsForTheModelAlone(t *testing.T) {
	stall := 10 * time.Second
	retry := func(status string, delay time.Duration) string {
		return fmt.Sprintf(`{"type":"system","subtype":"api_retry","attempt":1,"retry_delay_ms":%d,"error_status":%s}`, delay.Milliseconds(), status)
	}
	const status = `{"type":"system","subtype":"status","status":"%s"}`
	for name, c := range map[string]struct {
		play  func(f *fake)
		after time.Duration // when it stalls; 0: it does not
	}{
		"silence from the start": {func(*fake) {}, stall},
		"words now and then": {func(f *fake) {
			for range 5 {
				time.Sleep(9 * time.Second)
				f.say(deltaLine)
			}
		}, 55 * time.Second},
		"a tool that takes its time": {func(f *fake) {
			f.say(initLine, toolLine)
			time.Sleep(time.Hour)
			f.say(toolEnd)
			time.Sleep(9 * time.Second)
			f.say(resultLine)
		}, 0},
		"a model that is silent behind a tool": {func(f *fake) {
			f.say(initLine, toolLine)
			time.Sleep(time.Hour)
			f.say(toolEnd)
		}, time.Hour + stall},
		"a summary of the conversation": {func(f *fake) {
			f.say(initLine, fmt.Sprintf(status, "compacting"))
			time.Sleep(time.Hour)
			f.say(`{"type":"system","subtype":"status","status":null}`)
		}, time.Hour + stall},
		"a request without an answer is not a word": {func(f *fake) {
			for range 5 {
				f.say(fmt.Sprintf(status, "requesting"))
				time.Sleep(3 * time.Second)
			}
		}, stall},
		"no connection, tried again": {func(f *fake) {
			time.Sleep(5 * time.Second)
			f.say(retry("null", 2*time.Second))
		}, 12 * time.Second},
		"an error, tried again": {func(f *fake) {
			time.Sleep(5 * time.Second)
			f.say(retry("529", 2*time.Second))
		}, 17 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := agent.Launch{Profile: agent.Profile{StallTimeout: stall}}
				f := newFake(t, l, claude.Options{})
				played, done := make(chan struct{}), make(chan turn)
				begin := time.Now()
				go func() {
					defer close(played)
					f.hearUntil(`"user"`)
					c.play(f)
				}()
				go func() { done <- take(t.Context(), f) }()
				if c.after != 0 {
					time.Sleep(c.after - time.Millisecond)
					synctest.Wait()
					select {
					case got := <-done:
						t.Fatalf("ended after %v: %v", time.Since(begin), got.err)
					default:
					}
					line := f.hearUntil("interrupt")
					if at := time.Since(begin); line == "" || at != c.after {
						t.Errorf("%q after %v, want an interrupt after %v", line, at, c.after)
					}
					f.say(abortLine)
				}
				got := <-done
				if c.after == 0 && got.err != nil || c.after != 0 && got.code() != agent.CodeStalled {
					t.Errorf("error %v", got.err)
				}
				if c.after != 0 && got.CostUSD != 0.25 {
					t.Errorf("cost %g", got.CostUSD)
				}
				if !f.Alive() {
					t.Error("the process is not alive")
				}
				f.die()
				_ = f.Close(t.Context())
				<-played
			})
		})
	}
}

func TestTurnThatDoesNotAnswerItsInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, agent.Launch{}, claude.Options{Grace: 2 * time.Second})
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			f.hearUntil(`"user"`)
			f.say(initLine, deltaLine)
			synctest.Wait()
			cancel(errAborted)
			f.hearUntil("interrupt")
		}()
		begin := time.Now()
		got := take(ctx, f)
		if !errors.Is(got.err, errAborted) || got.Text != "word " || got.AgentID != newID {
			t.Errorf("error %v, result %+v", got.err, got.Result)
		}
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("took %v", took)
		}
		if f.Alive() {
			t.Error("the process is alive, and nobody knows what it does")
		}
		f.die()
		_ = f.Close(t.Context())
	})
}

func TestQuestionsAreAnswered(t *testing.T) {
	f := newFake(t, agent.Launch{}, claude.Options{})
	heard := make(chan string, 4)
	go func() {
		f.hearUntil(`"user"`)
		f.say(`{"type":"control_request","request_id":"q1","request":{"subtype":"can_use_tool","tool_name":"Bash","input":{}}}`)
		heard <- f.hear()
		f.say(`{"type":"control_request","request_id":"q2","request":{"subtype":"mcp_message"}}`)
		heard <- f.hear()
		f.say(resultLine)
	}()
	if got := take(t.Context(), f); got.err != nil || got.Text != "answer" {
		t.Errorf("result %+v, %v", got.Result, got.err)
	}
	type response struct {
		Type     string
		Response struct {
			Subtype, Error string
			RequestID      string `json:"request_id"`
			Response       struct{ Behavior, Message string }
		}
	}
	var first, second response
	if err := errors.Join(json.Unmarshal([]byte(<-heard), &first), json.Unmarshal([]byte(<-heard), &second)); err != nil {
		t.Fatal(err)
	}
	if r := first.Response; first.Type != "control_response" || r.RequestID != "q1" || r.Subtype != "success" || r.Response.Behavior != "deny" || r.Response.Message == "" {
		t.Errorf("%+v", first)
	}
	if r := second.Response; r.RequestID != "q2" || r.Subtype != "error" || r.Error == "" {
		t.Errorf("%+v", second)
	}
}

// A CLI that asks without end and never listens holds up nothing.
func TestQuestionsWithoutEnd(t *testing.T) {
	f := newFake(t, agent.Launch{}, claude.Options{})
	go func() {
		for range 1000 {
			f.say(`{"type":"control_request","request_id":"q","request":{"subtype":"can_use_tool"}}`)
		}
		f.die()
	}()
	if got := take(t.Context(), f); got.code() != agent.CodeAgentExited {
		t.Errorf("error %v", got.err)
	}
}

func TestPromptThatIsRefused(t *testing.T) {
	f := newFake(t, agent.Launch{}, claude.Options{})
	go func() {
		f.hear()
		f.say(`{"type":"control_response","response":{"subtype":"error","request_id":"initialize","error":"no such schema"}}`)
		f.hearUntil("interrupt")
		f.say(abortLine)
	}()
	if got := take(t.Context(), f); got.code() != agent.CodeAgentFailed || !strings.Contains(got.err.Error(), "no such schema") {
		t.Errorf("error %v", got.err)
	}
	if f.Alive() {
		t.Error("the process is alive without its prompt")
	}
}

func TestLinesOfAnyLength(t *testing.T) {
	f := newFake(t, agent.Launch{}, claude.Options{})
	long := strings.Repeat("x", 8<<20)
	go func() {
		f.hearUntil(`"user"`)
		f.say(
			`{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"`+long+`"}]}}`,
			`{"type":"assistant","message":{"id":"m2","content":[{"type":"text","text":"`+strings.Repeat(long, 8)+`"}]}}`, // too long
			string(bytes.Repeat([]byte{0, 0xff, '{', 0x1b}, 1<<20)),
			resultLine)
	}()
	got := take(t.Context(), f)
	if got.err != nil || got.Text != "answer" || got.texts(agent.EventText) != long {
		t.Errorf("error %v, %d bytes of text", got.err, len(got.texts(agent.EventText)))
	}
}

// A line whose nesting is deep is not read as often as it is deep.
func TestLinesOfAnyDepth(t *testing.T) {
	f := newFake(t, agent.Launch{}, claude.Options{})
	const depth = 4000
	nested := strings.Repeat(`[{"type":"tool_result","content":`, depth) + `"` + strings.Repeat("x", 2<<20) + `"` + strings.Repeat("}]", depth)
	go func() {
		f.hearUntil(`"user"`)
		f.say(`{"type":"user","message":{"content":`+nested+`}}`, resultLine)
	}()
	begin := time.Now()
	if got := take(t.Context(), f); got.err != nil || got.Text != "answer" {
		t.Errorf("error %v", got.err)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestMessagesBetweenTurnsAreNobodys(t *testing.T) {
	f := newFake(t, agent.Launch{}, claude.Options{})
	read := make(chan struct{})
	go func() {
		f.hearUntil(`"user"`)
		f.say(resultLine, `{"type":"result","subtype":"success","is_error":false,"result":"unasked"}`, deltaLine)
		f.say(`{"type":"control_request","request_id":"idle","request":{"subtype":"can_use_tool"}}`)
		f.hearUntil(`"idle"`) // so the driver has read them all
		close(read)
		f.hearUntil(`"user"`)
		f.say(strings.Replace(resultLine, "answer", "second", 1))
	}()
	if got := take(t.Context(), f); got.Text != "answer" || len(got.events) != 0 {
		t.Errorf("%+v, %v", got, got.err)
	}
	<-read
	if !f.Alive() {
		t.Fatal("the process is not alive")
	}
	if got := take(t.Context(), f); got.err != nil || got.Text != "second" {
		t.Errorf("%+v, %v", got, got.err)
	}
}

func TestAgentIDIsAUUIDOrNone(t *testing.T) {
	f := newFake(t, agent.Launch{}, claude.Options{})
	go func() {
		f.hearUntil(`"user"`)
		f.say(`{"type":"system","subtype":"init","session_id":"../../etc/passwd"}`, resultLine)
	}()
	if got := take(t.Context(), f); got.AgentID != "" || got.of(agent.EventInit)[0].AgentID != "" {
		t.Errorf("%+v", got)
	}
}

// A process that takes no input holds up neither a turn that is to end, nor
// Close, for longer than it must.
func TestInputThatIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, agent.Launch{}, claude.Options{})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errAborted)
		defer cancel()
		if got := take(ctx, f); !errors.Is(got.err, errAborted) {
			t.Errorf("error %v", got.err)
		}
		closing, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := f.Close(closing); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
		if f.Alive() {
			t.Error("alive")
		}
		f.die() // as the sandbox's end does
		if err := f.Close(t.Context()); err != nil {
			t.Errorf("close again: %v", err)
		}
	})
}

func TestCloseTellsTheEndOfInput(t *testing.T) {
	f := newFake(t, agent.Launch{}, claude.Options{})
	said := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(f.in)
		said <- string(all)
		f.say(deltaLine, resultLine)
		f.die()
	}()
	if err := f.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := <-said; strings.Count(all, "\n") != 1 || !strings.Contains(all, "initialize") {
		t.Errorf("said %q", all)
	}
	if got := take(t.Context(), f); got.code() != agent.CodeAgentExited || f.Alive() {
		t.Errorf("a turn of a closed conversation: %v", got.err)
	}
}

func TestRestoredTotalsAreAskedOfTheTranscript(t *testing.T) {
	state := func(cost float64, tokens int) string {
		return fmt.Sprintf(`{"type":"cost-state","totalCostUSD":%g,"modelUsage":{"m":{"inputTokens":%d,"costUSD":%g}}}`+"\n", cost, tokens, cost)
	}
	result := func(cost float64, all, own int) string {
		return fmt.Sprintf(`{"type":"result","subtype":"success","is_error":false,"total_cost_usd":%g,"usage":{"input_tokens":%d},"modelUsage":{"m":{"inputTokens":%d,"costUSD":%g}}}`, cost, own, all, cost)
	}
	for name, c := range map[string]struct {
		transcript string
		results    []string
		costs      []float64
		tokens     []int64
	}{
		"no totals":                          {"{}\n", []string{result(0.5, 100, 100)}, []float64{0.5}, []int64{100}},
		"totals go on":                       {state(2, 1000), []string{result(2.5, 1100, 100), result(3, 1200, 100)}, []float64{0.5, 0.5}, []int64{100, 100}},
		"the last ones count":                {state(1, 500) + "{broken\n" + state(2, 1000), []string{result(2.5, 1100, 100)}, []float64{0.5}, []int64{100}},
		"counted from zero":                  {state(2, 1000), []string{result(0.5, 100, 100), result(1, 200, 100)}, []float64{0.5, 0.5}, []int64{100, 100}},
		"counted from zero, and a long turn": {state(2, 1000), []string{result(3, 1500, 1500)}, []float64{3}, []int64{1500}},
		"go on without a model's answer":     {state(2, 1000), []string{result(2, 1000, 0)}, []float64{0}, []int64{0}},
		"from zero without an answer":        {state(2, 1000), []string{result(0, 0, 0), result(0.5, 100, 100)}, []float64{0, 0.5}, []int64{0, 100}},
		"nonsense":                           {state(-2, -1000), []string{result(0.5, 100, 100)}, []float64{0.5}, []int64{100}},
		"totals that shrink":                 {"", []string{result(2, 1000, 1000), result(1, 500, 100)}, []float64{2, 0}, []int64{1000, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			writeTranscript(t, home, "-a", oldID, c.transcript)
			f := newFake(t, agent.Launch{Resume: oldID, Home: agent.Folder{Host: home}}, claude.Options{})
			go func() {
				for _, line := range c.results {
					f.hearUntil(`"user"`)
					f.say(line)
				}
			}()
			var costs []float64
			var tokens []int64
			for range c.results {
				got := take(t.Context(), f)
				if got.err != nil {
					t.Fatal(got.err)
				}
				costs, tokens = append(costs, got.CostUSD), append(tokens, got.Usage.InputTokens)
			}
			if diff := cmp.Diff(c.costs, costs) + cmp.Diff(c.tokens, tokens); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzConversation gives the driver any output: it ends, in an orderly way.
func FuzzConversation(f *testing.F) {
	for _, seed := range []string{
		initLine + "\n" + deltaLine + "\n" + resultLine, toolLine + "\n" + toolEnd, abortLine, "", "\n\n{}\nnull\n[]\n\"\"", "\x00\xff{",
		`{"type":"result","modelUsage":{"m":{"inputTokens":-9223372036854775808,"costUSD":1e308}},"total_cost_usd":-1e308}`,
		`{"type":"system","subtype":"api_retry","retry_delay_ms":1e308,"error_status":-1}`,
		`{"type":"user","message":{"content":[{"type":"tool_result","content":{"a":1}}]}}`,
		`{"type":"control_request","request":{"subtype":5}}` + "\n" + `{"type":"control_response","response":{"subtype":"error","request_id":"initialize"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		play := newFake(t, agent.Launch{Profile: agent.DefaultProfile()}, claude.Options{})
		go func() { _, _ = io.Copy(io.Discard, play.in) }()
		go func() {
			_, _ = play.out.Write(said)
			_ = play.out.Close()
		}()
		for range 3 {
			over := false
			result, err := play.Turn(t.Context(), agent.Turn{Message: "go"}, func(e agent.Event) {
				if over || e.Type == "" {
					t.Errorf("event %+v behind its turn: %v", e, over)
				}
			})
			over = true
			if result.CostUSD < 0 || result.Turns < 0 || result.Duration < 0 {
				t.Errorf("result %+v", result)
			}
			var e *agent.Error
			if err != nil && (!errors.As(err, &e) || e.Code == "" || e.Message == "") {
				t.Errorf("error %#v", err)
			}
		}
		if err := play.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
