package sqlite_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"claude-runner/session"
	"claude-runner/session/sqlite"
)

// plan is how SQLite means to answer a query.
func plan(t testing.TB, db *sql.DB, query string, args ...any) string {
	t.Helper()
	rows, err := db.Query("EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "; ")
}

// TestPlans holds that a page of tasks is found with an index, and in its order:
// nothing is sorted.
func TestPlans(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner.db")
	open(t, path)
	db := raw(t, path)
	type filter = session.TaskFilter
	for _, c := range []struct {
		filter filter
		want   string
	}{
		{filter{}, "SCAN tasks"},
		{filter{Cursor: "7"}, "PRIMARY KEY"},
		{filter{State: session.TaskQueued}, "tasks_unfinished"},
		{filter{State: session.TaskStarting}, "tasks_unfinished"},
		{filter{State: session.TaskRunning, Cursor: "7"}, "tasks_unfinished"},
		{filter{State: session.TaskSucceeded}, "SCAN tasks"}, // most are
		{filter{State: session.TaskFailed}, "tasks_by_end"},
		{filter{State: session.TaskAborted, Cursor: "7"}, "tasks_by_end"},
		{filter{State: session.TaskTimedOut}, "tasks_by_end"},
		{filter{State: session.TaskBudgetExceeded}, "tasks_by_end"},
		{filter{SessionID: "s"}, "tasks_by_session"},
		{filter{SessionID: "s", State: session.TaskSucceeded}, "tasks_by_session"},
		{filter{Agent: "a"}, "tasks_by_agent"},
		{filter{Owner: "o"}, "tasks_by_owner"},
		{filter{Owner: "o", State: session.TaskSucceeded}, "tasks_by_owner"},
	} {
		query, args, err := sqlite.TasksQuery(c.filter)
		if err != nil {
			t.Fatal(err)
		}
		got := plan(t, db, query, append(args, 51)...)
		if !strings.Contains(got, c.want) || strings.Contains(got, "TEMP B-TREE") {
			t.Errorf("%+v: %s; want %s", c.filter, got, c.want)
		}
	}
}

// TestTasksByState holds that every state is found among the others.
func TestTasksByState(t *testing.T) {
	s := newStore(t)
	for i := range 3 {
		for _, state := range session.TaskStates {
			task := create(t, s, fmt.Sprint(state, i), fmt.Sprint("s", i))
			task.State, task.StartedAt = state, day.Add(time.Second)
			switch {
			case state.Ended():
				task.EndedAt = day.Add(time.Minute)
				must(t, s, session.Change{End: &session.Ending{Task: task}})
			case state != session.TaskQueued:
				must(t, s, session.Change{Update: &task})
			}
		}
	}
	for _, state := range session.TaskStates {
		for sessionID, want := range map[string]string{"": "2 1 0", "s1": "1"} {
			tasks, _, err := s.Tasks(t.Context(), session.TaskFilter{State: state, SessionID: sessionID})
			var got []string
			for _, task := range tasks {
				got = append(got, strings.TrimPrefix(task.ID, string(state)))
			}
			if strings.Join(got, " ") != want || err != nil {
				t.Errorf("%s of %q: %v, %v; want %s", state, sessionID, got, err, want)
			}
		}
	}
}
