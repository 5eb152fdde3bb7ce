package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"claude-runner/session"
)

const taskColumns = `number, id, session_id, agent, backend, state, request, result, created_at, started_at, ended_at, turn_from, webhook, owner, sandbox`

// Task returns one task, or session.ErrNotFound.
func (s *Store) Task(ctx context.Context, id string) (session.Task, error) {
	t, _, err := scanTask(s.readTask.QueryRowContext(ctx, id))
	return t, found(err)
}

// Tasks returns a page of tasks, the newest first. A cursor is the number of
// the page's last task.
func (s *Store) Tasks(ctx context.Context, f session.TaskFilter) ([]session.Task, string, error) {
	query, args, err := tasksQuery(f)
	if err != nil {
		return nil, "", err
	}
	limit := pageOf(f)
	tasks, numbers, err := s.queryTasks(ctx, query, append(args, limit+1)...)
	if err != nil || len(tasks) <= limit {
		return tasks, "", err
	}
	return tasks[:limit], strconv.FormatInt(numbers[limit-1], 10), nil
}

func pageOf(f session.TaskFilter) int {
	if f.Limit == 0 {
		return 50
	}
	return f.Limit
}

// tasksQuery returns the query of a page with its arguments, but for the last,
// which is how many tasks are wanted.
func tasksQuery(f session.TaskFilter) (query string, args []any, err error) {
	where := []string{"1 = 1"}
	only := func(condition string) { where = append(where, condition) }
	add := func(condition string, arg any) { where, args = append(where, condition), append(args, arg) }
	if f.Owner != "" {
		add("owner = ?", f.Owner)
		only("owner <> ''")
	}
	if f.SessionID != "" {
		add("session_id = ?", f.SessionID)
	}
	if f.State != "" {
		add("state = ?", f.State)
		only(indexOfState(f.State))
	}
	if f.Agent != "" {
		add("agent = ?", f.Agent)
	}
	if f.Cursor != "" {
		n, err := strconv.ParseInt(f.Cursor, 10, 64)
		if err != nil {
			return "", nil, errCursor
		}
		add("number < ?", n)
	}
	return `SELECT ` + taskColumns + ` FROM tasks WHERE ` + strings.Join(where, " AND ") + ` ORDER BY number DESC LIMIT ?`, args, nil
}

// indexOfState is what a partial index says of a state, too. Tasks that have
// succeeded are in none: among all of them they are found soon.
func indexOfState(s session.TaskState) string {
	switch {
	case !s.Ended():
		return "ended_at = 0"
	case s != session.TaskSucceeded:
		return "ended_at > 0 AND state <> 'succeeded'"
	default:
		return "ended_at > 0"
	}
}

// Unfinished returns the tasks that have no end, in the order of submission.
func (s *Store) Unfinished(ctx context.Context) ([]session.Task, error) {
	tasks, _, err := s.queryTasks(ctx, `SELECT `+taskColumns+` FROM tasks WHERE ended_at = 0 ORDER BY number`)
	return tasks, err
}

func (s *Store) queryTasks(ctx context.Context, query string, args ...any) ([]session.Task, []int64, error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	tasks, numbers := []session.Task{}, []int64{}
	for rows.Next() {
		t, n, err := scanTask(rows)
		if err != nil {
			return nil, nil, err
		}
		tasks, numbers = append(tasks, t), append(numbers, n)
	}
	return tasks, numbers, rows.Err()
}

func scanTask(r row) (session.Task, int64, error) {
	var t session.Task
	var number, created, started, ended int64
	var request, result []byte
	var webhook string
	err := r.Scan(&number, &t.ID, &t.SessionID, &t.Agent, &t.Backend, &t.State, &request, &result, &created, &started, &ended, &t.TurnFrom, &webhook, &t.Owner, &t.Sandbox)
	if err != nil {
		return t, 0, err
	}
	t.CreatedAt, t.StartedAt, t.EndedAt = moment(created), moment(started), moment(ended)
	if err := json.Unmarshal(request, &t.Request); err != nil {
		return t, 0, fmt.Errorf("read request of task %s: %w", t.ID, err)
	}
	if err := json.Unmarshal(result, &t.Result); err != nil {
		return t, 0, fmt.Errorf("read result of task %s: %w", t.ID, err)
	}
	if t.Request.Webhook, err = decodeWebhook(webhook); err != nil {
		return t, 0, fmt.Errorf("read webhook of task %s: %w", t.ID, err)
	}
	return t, number, nil
}

func encodeTask(t session.Task) (request, result string, err error) {
	a, err := json.Marshal(t.Request)
	if err != nil {
		return "", "", fmt.Errorf("encode request: %w", err)
	}
	b, err := json.Marshal(t.Result)
	if err != nil {
		return "", "", fmt.Errorf("encode result: %w", err)
	}
	return string(a), string(b), nil
}
