package agent

import (
	"time"

	"claude-runner/backends"
)

// Profile is one agent that the runner serves, as the configuration describes
// it. The zero value of a field means its default (see DefaultProfile).
type Profile struct {
	Name        string `koanf:"-" json:"name"`
	Description string `koanf:"description" json:"description,omitempty"`

	// Template is the folder that a session's workspace is made from. Empty:
	// the template in the binary.
	Template string `koanf:"template" json:"template,omitempty"`
	// Model is a full model id, such as "claude-sonnet-4-6"; aliases move.
	Model string `koanf:"model" json:"model"`
	// Models may be called beside Model, by tools and subagents.
	Models []string `koanf:"models" json:"models,omitempty"`
	// Network is what the agent's tools reach, and Egress what they do where it
	// is NetworkAllowlist.
	Network NetworkMode  `koanf:"network" json:"network"`
	Egress  []EgressRule `koanf:"egress" json:"egress,omitempty"`
	// Backend names the backends that may run this agent; the first that
	// passes its check does.
	Backend []string `koanf:"backend" json:"backend"`
	// Image is the container image, where the backend uses one.
	Image string              `koanf:"image" json:"image,omitempty"`
	Pull  backends.PullPolicy `koanf:"pull" json:"pull,omitempty"`

	// MaxTurns bounds the model round trips of one task. 0: no bound.
	MaxTurns int `koanf:"max_turns" json:"maxTurns,omitempty"`
	// The budgets bound what model calls may cost, in US dollars: of one task, of
	// a session in all, and of all tasks of this agent on one day (UTC). Each is
	// looked at before a call: the one that goes over it is the last. 0: no bound.
	MaxBudgetUSD        float64 `koanf:"max_budget_usd" json:"maxBudgetUsd,omitempty"`
	MaxSessionBudgetUSD float64 `koanf:"max_session_budget_usd" json:"maxSessionBudgetUsd,omitempty"`
	MaxDailyBudgetUSD   float64 `koanf:"max_daily_budget_usd" json:"maxDailyBudgetUsd,omitempty"`
	// Timeout bounds one task from the sandbox's start to its answer.
	Timeout time.Duration `koanf:"timeout" json:"-"`
	// StallTimeout ends a task whose model sends nothing for so long.
	StallTimeout time.Duration `koanf:"stall_timeout" json:"-"`
	// IdleTimeout is how long the agent's process stays after a turn, for the
	// session's next message to find it running. 0: it ends with the turn.
	IdleTimeout time.Duration `koanf:"idle_timeout" json:"-"`
	// KeepWarm is how many agents of this profile stand booted, each in a
	// workspace of its own, for sessions to come.
	KeepWarm int `koanf:"keep_warm" json:"-"`
	// RetryInterrupted runs a task again whose sandbox is gone when the runner
	// comes back. Otherwise it has failed: its agent may have done half.
	RetryInterrupted bool `koanf:"retry_interrupted" json:"retryInterrupted,omitempty"`
	// Concurrency bounds how many tasks of this agent run at once. 0: only the
	// global limit does.
	Concurrency int `koanf:"concurrency" json:"concurrency,omitempty"`

	Limits    Limits             `koanf:"limits" json:"limits"`
	Hardening backends.Hardening `koanf:"hardening" json:"hardening"`

	// Env and Secrets are the environment of the agent and its tools. A task's
	// own env wins over both.
	Env     map[string]string `koanf:"env" json:"-"`
	Secrets map[string]Secret `koanf:"secrets" json:"-"`

	// Webhook is told the end of every task that brings none of its own.
	Webhook Webhook `koanf:"webhook" json:"-"`

	// Tools is the exact set of tools that the agent has.
	Tools []string `koanf:"tools" json:"tools"`
	// PermissionMode is one of PermissionModes.
	PermissionMode string `koanf:"permission_mode" json:"permissionMode"`
	// ExtraArgs go at the end of the agent's command line.
	ExtraArgs []string `koanf:"extra_args" json:"-"`
}

// Limits bound the sandbox of a task. Zero means no limit.
type Limits struct {
	Memory    Bytes         `koanf:"memory" json:"memory,omitempty"`        // swap included
	CPUs      float64       `koanf:"cpus" json:"cpus,omitempty"`            // processors; an agent that boots keeps more than one busy
	PIDs      int64         `koanf:"pids" json:"pids,omitempty"`            // processes and threads
	OpenFiles int64         `koanf:"open_files" json:"openFiles,omitempty"` // per process
	CPUTime   time.Duration `koanf:"cpu_time" json:"-"`                     // per process
	Tmp       Bytes         `koanf:"tmp" json:"tmp,omitempty"`              // size of /tmp
	Disk      Bytes         `koanf:"disk" json:"disk,omitempty"`            // of the session's folders, workspace and memory
	Output    Bytes         `koanf:"output" json:"output,omitempty"`        // what the agent's process may write to its standard output and error
}

// PermissionModes are the values that Profile.PermissionMode may have.
var PermissionModes = []string{"bypassPermissions", "acceptEdits", "dontAsk", "default", "plan"}

// DefaultProfile returns the values that a profile has where the
// configuration is silent.
func DefaultProfile() Profile {
	return Profile{
		Model:          "claude-sonnet-4-6",
		Image:          "claude-runner-agent",
		Pull:           backends.PullMissing,
		Network:        NetworkAllowlist,
		MaxTurns:       10,
		Timeout:        10 * time.Minute,
		StallTimeout:   2 * time.Minute,
		Limits:         Limits{Memory: 1 << 30, CPUs: 2, PIDs: 256, OpenFiles: 4096, Tmp: 256 << 20, Disk: 2 << 30, Output: 256 << 20},
		Hardening:      backends.Hardening{Capabilities: []string{}, Seccomp: backends.SeccompDefault},
		Tools:          []string{"Bash", "Read", "Edit", "Write"},
		PermissionMode: "bypassPermissions",
	}
}
