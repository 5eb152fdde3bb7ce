package claude

import (
	"fmt"
	"net/http"
	"strings"

	"claude-runner/agent"
)

// failure returns why a turn failed, or nil. A result whose subtype is success
// may be an error; the other way round it cannot be.
func (t *turn) failure(m message) error {
	if !m.IsError && m.Subtype == "success" {
		return nil
	}
	said := strings.TrimSpace(m.Result)
	if said == "" {
		said = strings.TrimSpace(strings.Join(m.Errors, "; "))
	}
	switch m.Subtype {
	case "error_max_turns":
		return failed(agent.CodeMaxTurns, "the agent did not finish within %d model calls: raise its max_turns, or ask for less at a time", t.c.launch.Profile.MaxTurns)
	case "error_max_budget_usd":
		return failed(agent.CodeBudget, "the task's budget of %g dollars is spent: raise the agent's max_budget_usd, or ask for less at a time", t.c.launch.Profile.MaxBudgetUSD)
	case "error_max_structured_output_retries":
		return failed(agent.CodeOutput, "the agent gave no output that output.schema.json allows, though it was told what was wrong: %s", said)
	}
	if m.TerminalReason == "prompt_too_long" {
		return failed(agent.CodeModelRejected, "the conversation is too long for the model: reset the session to begin anew")
	}
	if code, ok := apiFailure(m, t.apiError); ok {
		err := failed(code, "%s", t.apiAdvice(code, t.apiError, said))
		err.Status = m.APIErrorStatus
		return err
	}
	return otherFailure(m, said)
}

// otherFailure sorts what is left by the CLI's words, since it has nothing else
// for it.
func otherFailure(m message, said string) error {
	switch {
	case strings.Contains(said, "No conversation found"):
		return failed(agent.CodeMemoryLost, "the agent's memory of this session is gone: reset the session to begin anew")
	case said == "":
		said = "it said no more than " + m.Subtype
	}
	return failed(agent.CodeAgentFailed, "the agent failed: %s", said)
}

// apiFailure sorts the Messages API's errors: by its status, and without one by
// the word that the CLI has for them.
func apiFailure(m message, word string) (agent.ErrorCode, bool) {
	switch status := m.APIErrorStatus; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return agent.CodeModelAuth, true
	case status == http.StatusTooManyRequests:
		return agent.CodeModelRateLimited, true
	case status == 529:
		return agent.CodeModelOverloaded, true
	case status >= 500:
		return agent.CodeModelUnavailable, true
	case status >= 400:
		return agent.CodeModelRejected, true
	}
	switch word {
	case "authentication_failed":
		return agent.CodeModelAuth, true
	case "rate_limit":
		return agent.CodeModelRateLimited, true
	case "overloaded":
		return agent.CodeModelOverloaded, true
	case "invalid_request", "model_not_found", "billing_error":
		return agent.CodeModelRejected, true
	case "server_error", "unknown":
		// Not one answer: refused, reset, or too late.
		return agent.CodeModelUnavailable, true
	}
	return "", false
}

// apiAdvice says what to do, and what was said in brackets, where that is not
// the CLI's own advice to somebody at its terminal.
func (t *turn) apiAdvice(code agent.ErrorCode, word, said string) string {
	switch {
	case word == "model_not_found":
		return fmt.Sprintf("the model API does not serve %s: check the agent's model", t.c.launch.Model)
	case word == "billing_error":
		return "the model API's account has no credit left: top it up, or set another key in model_api"
	case strings.Contains(said, "/login"):
		return "the agent has no credentials for the model API: set model_api in the configuration"
	}
	advice := map[agent.ErrorCode]string{
		agent.CodeModelAuth:        "the model API refused the credentials: check model_api in the configuration",
		agent.CodeModelRateLimited: "the model API's rate limit is reached: wait, or lower limits.concurrency",
		agent.CodeModelOverloaded:  "the model API is overloaded: try again later",
		agent.CodeModelUnavailable: "the model API cannot be used: check model_api.base_url and its status, and try again",
		agent.CodeModelRejected:    "the model API rejected the request: check the agent's model and what was sent",
	}[code]
	if said == "" {
		return advice
	}
	return fmt.Sprintf("%s (%s)", advice, said)
}

func failed(code agent.ErrorCode, format string, args ...any) *agent.Error {
	return &agent.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
