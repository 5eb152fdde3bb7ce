// Package sample makes what a runner has that has worked for long, for measuring
// what that costs.
package sample

import (
	"context"
	"fmt"
	"time"

	"claude-runner/session"
)

// batchSessions is how many sessions are written at a time.
const batchSessions = 100

// Fill stores sessions of an agent: session-0 and so on, begun a second apart, the
// last a day ago. Each has one ended task, task-0 and so on, with some events.
func Fill(ctx context.Context, store session.Store, agent string, sessions, events int) error {
	begin := time.Now().Add(-24*time.Hour - time.Duration(sessions)*time.Second).UTC()
	for first := 0; first < sessions; first += batchSessions {
		var batch []session.Change
		for i := first; i < min(first+batchSessions, sessions); i++ {
			batch = append(batch, one(agent, i, events, begin.Add(time.Duration(i)*time.Second))...)
		}
		if err := store.Apply(ctx, batch); err != nil {
			return fmt.Errorf("store %d sessions: %w", sessions, err)
		}
	}
	return nil
}

// one is a session's beginning and its task's end.
func one(agent string, i, events int, at time.Time) []session.Change {
	id := fmt.Sprintf("session-%d", i)
	t := session.Task{
		ID: fmt.Sprintf("task-%d", i), SessionID: id, Agent: agent, State: session.TaskQueued, CreatedAt: at,
		Request: session.Request{Message: "What is my plan?"},
	}
	created := t
	records := make([]session.Record, events)
	for n := range records {
		records[n] = session.Record{
			SessionID: id, Seq: int64(n + 1), TaskID: t.ID, Step: int64(n), Time: at,
			Data: fmt.Appendf(nil, `{"seq":%d,"time":%q,"sessionId":%q,"taskId":%q,"type":"text","text":"a few words of it"}`, n+1, at.Format(time.RFC3339Nano), id, t.ID),
		}
	}
	t.State, t.StartedAt, t.EndedAt = session.TaskSucceeded, at.Add(time.Second), at.Add(time.Minute)
	t.Result = session.Result{Text: "You are on the pro plan.", CostUSD: 0.01, Model: "claude-sonnet-4-6", Duration: time.Minute, Turns: 2}
	return []session.Change{
		{Create: &session.Creation{Session: session.Session{ID: id, Agent: agent, CreatedAt: at, UpdatedAt: at}, Task: created}, Events: records},
		{End: &session.Ending{Task: t, AgentID: "a", Turns: 1}},
	}
}
