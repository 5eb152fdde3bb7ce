package scripted

import (
	"time"
)

// The script's YAML, key by key. doc.go describes it to those who write scripts.

type document struct {
	RequireKey string           `yaml:"require_key"`
	Models     []string         `yaml:"models"`
	Prices     map[string]Price `yaml:"prices"`
	Rules      []rule           `yaml:"rules"`
}

// Price is what a model costs, in US dollars per million tokens.
type Price struct {
	Input      float64 `yaml:"input"`
	Output     float64 `yaml:"output"`
	CacheRead  float64 `yaml:"cache_read"`
	CacheWrite float64 `yaml:"cache_write"`
}

type rule struct {
	Name       string            `yaml:"name"`
	Match      match             `yaml:"match"`
	Times      int               `yaml:"times"`
	Per        string            `yaml:"per"`
	Delay      time.Duration     `yaml:"delay"`
	ChunkDelay time.Duration     `yaml:"chunk_delay"`
	Headers    map[string]string `yaml:"headers"`
	Answer     []block           `yaml:"answer"`
	Usage      *usage            `yaml:"usage"`
	StopReason string            `yaml:"stop_reason"`
	Error      *failure          `yaml:"error"`
	Fault      *fault            `yaml:"fault"`
}

type match struct {
	Message      *pattern `yaml:"message"`
	System       *pattern `yaml:"system"`
	Model        *pattern `yaml:"model"`
	History      *pattern `yaml:"history"`
	EarlierTurns *int     `yaml:"earlier_turns"`
	ToolResults  *int     `yaml:"tool_results"`
	ToolResult   *pattern `yaml:"tool_result"`
	ToolName     *pattern `yaml:"tool_name"`
	ToolError    *bool    `yaml:"tool_error"`
	HasTool      string   `yaml:"has_tool"`
	Stream       *bool    `yaml:"stream"`
}

// block is one content block: the one of text, thinking and tool_use that is set.
type block struct {
	Text     *text  `yaml:"text"`
	Thinking *text  `yaml:"thinking"`
	ToolUse  string `yaml:"tool_use"`
	Input    *input `yaml:"input"`
	Chunk    int    `yaml:"chunk"`
}

type usage struct {
	Input         int64 `yaml:"input_tokens" json:"input_tokens"`
	CacheCreation int64 `yaml:"cache_creation_input_tokens" json:"cache_creation_input_tokens"`
	CacheRead     int64 `yaml:"cache_read_input_tokens" json:"cache_read_input_tokens"`
	Output        int64 `yaml:"output_tokens" json:"output_tokens"`
}

// failure is an answer with an HTTP error status, or, with At, an error event
// in the stream after At deltas.
type failure struct {
	Status     int    `yaml:"status"`
	Type       string `yaml:"type"`
	Message    string `yaml:"message"`
	RetryAfter string `yaml:"retry_after"`
	At         *int   `yaml:"at"`
}

type faultKind string

const (
	faultHang      faultKind = "hang"
	faultCut       faultKind = "cut"
	faultMalformed faultKind = "malformed"
	faultEnd       faultKind = "end"
)

// fault breaks an answer off.
type fault struct {
	Kind faultKind `yaml:"kind"`
	At   moment    `yaml:"at"`
}

// moment is when a fault happens: after so many deltas, or before the headers.
type moment int

const beforeHeaders moment = -1
