package session

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"claude-runner/agent"
)

// SetBudget bounds what the session's tasks may cost in all, in US dollars: 0 is
// no bound, nil what its profile says. It holds from the next task on.
func (m *Manager) SetBudget(ctx context.Context, sessionID string, usd *float64) (State, error) {
	if usd != nil && (math.IsNaN(*usd) || math.IsInf(*usd, 0) || *usd < 0) {
		return State{}, &Error{Code: CodeInvalid, Field: "budgetUsd", Message: "budgetUsd: want dollars, 0 or more, or null for what the agent's profile says"}
	}
	err := m.opts.Store.SetBudget(ctx, sessionID, usd)
	m.forgetSession(sessionID)
	if errors.Is(err, ErrNotFound) {
		return State{}, noSession(sessionID)
	}
	if err != nil {
		return State{}, storageError("write the session's budget", err)
	}
	return m.Session(ctx, sessionID)
}

// budgets returns those that bound the task.
func (a *attempt) budgets(ctx context.Context) ([]agent.Budget, error) {
	task, p, limit := a.job.task, a.profile, a.profile.MaxSessionBudgetUSD
	if a.session.BudgetUSD != nil {
		limit = *a.session.BudgetUSD
	}
	all := []agent.Budget{
		{Name: agent.TaskBudget(task.ID), LimitUSD: p.MaxBudgetUSD},
		{Name: "session:" + task.SessionID, LimitUSD: limit, SpentUSD: a.session.CostUSD},
	}
	today := a.m.opts.Now().UTC().Truncate(24 * time.Hour)
	key, err := a.m.KeyBudget(ctx, task.Owner)
	if err != nil {
		return nil, err
	}
	all = append(all, agent.Budget{
		Name: "key:" + key.KeyID + ":" + today.Format(time.DateOnly), LimitUSD: key.LimitUSD, SpentUSD: key.SpentUSD,
	})
	if p.MaxDailyBudgetUSD > 0 {
		spent, err := a.m.opts.Store.Spent(ctx, task.Agent, today)
		if err != nil {
			return nil, storageError("read what was spent today", err)
		}
		all = append(all, agent.Budget{
			Name: "agent:" + task.Agent + ":" + today.Format(time.DateOnly), LimitUSD: p.MaxDailyBudgetUSD, SpentUSD: spent,
		})
	}
	bounds := slices.DeleteFunc(all, func(b agent.Budget) bool { return b.LimitUSD <= 0 })
	for _, b := range bounds {
		if b.SpentUSD >= b.LimitUSD {
			return nil, overBudget(agent.Exceeded{Budget: b.Name, LimitUSD: b.LimitUSD, SpentUSD: b.SpentUSD})
		}
	}
	return bounds, nil
}

// overBudget says which budget is spent, and how to go on.
func overBudget(e agent.Exceeded) *Error {
	advice := map[string]string{
		"task":    "raise the agent's max_budget_usd, or ask for less at a time",
		"session": "raise it with PATCH /session/ID, or the agent's max_session_budget_usd",
		"agent":   "raise the agent's max_daily_budget_usd, or wait for the next day (UTC)",
		"key":     "raise the API key's budget, or wait for the next day (UTC)",
	}
	kind, _, _ := strings.Cut(e.Budget, ":")
	return &Error{Code: CodeBudget, Message: fmt.Sprintf(
		"the budget of the %s is spent: %.4f of %.4f dollars; %s", kind, e.SpentUSD, e.LimitUSD, advice[kind])}
}
