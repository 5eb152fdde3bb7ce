// Package scripted stands in for the Messages API: it answers by a script, so
// that the real CLI, real tools and real engines run with no key and no cost.
// Tests, benchmarks and the demo use it; nothing else of the program does.
//
//	script, err := scripted.Load("support.yaml") // or Parse, MustParse, Builtin
//	server := scripted.New(script, scripted.Options{})
//	baseURL, err := server.Listen("127.0.0.1:0") // for ANTHROPIC_BASE_URL
//	defer server.Close()
//	// … run agents …
//	server.Problems() // what no rule fits: a test fails for it
//	server.Requests() // what was asked, with the texts of the conversation
//	server.Served()   // calls, tokens and dollars
//
// Server is also an http.Handler, for a listener of the caller's own. It serves
// POST /v1/messages with and without streaming, POST /v1/messages/count_tokens,
// GET /v1/models and HEAD or GET /; anything else is a 404. Errors have the
// API's shape. Any credential will do, or none, unless a key is required.
//
// # Scripts
//
// A script is a YAML file with a list of rules. The first rule whose match fits
// a request answers it. An unknown key is an error, and every error has its line.
//
//	rules:
//	  - name: look up                  # shown in Request.Rule; "rule 1" without it
//	    match:
//	      message: '/order (\d+)/'     # what the user said
//	      tool_results: 0              # no tool has answered yet
//	    answer:
//	      - thinking: "I need the order's data."
//	      - tool_use: Bash
//	        input: {command: "tools/order {{.Match 1}}", description: Look up}
//	  - name: tell
//	    match: {tool_name: Bash}
//	    answer:
//	      - text: "Its state is {{(parse .LastToolResult).state}}."
//	    usage: {input_tokens: 1200, output_tokens: 40}
//
// A turn begins with the user's own words and goes on through the model's tool
// calls. The reminders that the CLI puts into a user's message, and its marks of
// an interrupted turn, are not the user's words and are left out. What it asks of
// the model in the user's name is a turn of its own: where --json-schema is given and
// the model has answered in words, "[structured-output-enforce] You MUST call …".
//
// A rule that calls a tool fits again when the tool has answered, for the
// message is still the same: give it `tool_results: 0`, or put the rule for the
// result before it.
//
// # match
//
// All conditions that are given must hold. A pattern is a text that must be
// found, or a regular expression (RE2) between slashes: /(?i)refund/.
//
//	message: pattern        the user's words that began this turn
//	system: pattern         the system prompt
//	model: pattern          the model asked for
//	history: pattern        all texts before this turn: user's, model's, tools'
//	earlier_turns: n        turns before this one
//	tool_results: n         tools that have answered in this turn
//	tool_result: pattern    what the last of them answered
//	tool_name: pattern      its name
//	tool_error: bool        whether it failed
//	has_tool: name          the tool is offered to the model
//	stream: bool            whether a stream is asked for; the CLI asks again
//	                        without one after a broken stream
//
// # Rules
//
//	times: n                the rule answers n times, and then fits no more
//	per: conversation       how times is counted: per conversation (the CLI's
//	                        session; the default), or "server", over all
//	delay: 200ms            before the headers
//	chunk_delay: 10ms       between deltas of a stream
//	headers: {name: value}  added to the answer
//	answer: [block, …]      see below
//	usage:                  input_tokens, output_tokens, cache_read_input_tokens,
//	                        cache_creation_input_tokens; without it a token per
//	                        four bytes of the request and of the answer
//	stop_reason: text       without it tool_use, or end_turn
//	error:                  an HTTP error: status, and where wanted type, message
//	                        and retry_after (the header). With `at: n` the answer
//	                        begins, and an error event ends its stream after n
//	                        deltas; without streaming it is an HTTP error all the same
//	fault:                  breaks the answer off: kind, and at: when
//	  kind: hang            silence, until the client leaves or the server closes
//	  kind: cut             the connection is closed, in the middle of the answer
//	  kind: malformed       a line of broken JSON, and the stream's end
//	  kind: end             the stream's end
//	  at: n                 after n deltas (default 0), or after the last one
//	  at: headers           (hang, cut) before the headers; with no answer
//
// Without streaming a fault comes in the middle of the body.
//
// # Blocks
//
//	answer:
//	  - text: template
//	    chunk: 5                      characters per delta; 24 without it
//	  - thinking: template
//	  - tool_use: Bash
//	    input: {command: template}    a mapping whose texts are templates, or
//	    input: '{"n": {{.Match 1}}}'  one template that gives a JSON object
//
// Templates are those of text/template. They see a [View]: .Message, .Match 1 (a
// group of match.message), .HistoryMatch 1, .ResultMatch 1, .SystemMatch 1,
// .LastToolResult, .LastTool, .ToolResults, .Model, .Turn, .Earlier, .History.
// Functions: json (a value as JSON), parse (JSON as a value), trim.
//
// # Beside the rules
//
//	require_key: text       other credentials get 401
//	models: [id, …]         listed by GET /v1/models; others get 404. Without it
//	                        any model is served
//	prices:                 dollars per million tokens, for Server.Served
//	  claude-sonnet-4-6: {input: 3, output: 15, cache_read: 0.3, cache_write: 3.75}
package scripted
