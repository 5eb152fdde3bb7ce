package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fasthttp/websocket"
)

// The variables that say which server run gives its task to, and with which key.
const (
	envServer = "CLAUDE_RUNNER_URL"
	envKey    = "CLAUDE_RUNNER_API_KEY"
)

// client talks to a server of this program.
type client struct {
	base string       // http://host:port, no slash at the end
	key  string       // bearer; may be empty
	http *http.Client // nil: the default one
}

// taskRequest is the body of POST /task.
type taskRequest struct {
	SessionID string            `json:"sessionId"`
	Message   string            `json:"message"`
	Context   string            `json:"context,omitempty"`
	Agent     string            `json:"agent,omitempty"`
	Backend   string            `json:"backend,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
}

// streamEvent is what the terminal shows of an event.
type streamEvent struct {
	Type    string          `json:"type"`
	TaskID  string          `json:"taskId"`
	Text    string          `json:"text"`
	Tool    string          `json:"tool"`
	Input   json.RawMessage `json:"input"`
	Result  string          `json:"result"`
	IsError bool            `json:"isError"`
	Model   string          `json:"model"`
	Backend string          `json:"backend"`
	Status  *struct {
		Message string `json:"message"`
	} `json:"status"`
	Position int    `json:"position"`
	Error    string `json:"error"`
}

// healthy reports whether a server answers.
func (c client) healthy(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	status, _, err := c.do(ctx, http.MethodGet, "/health", nil)
	return err == nil && status == http.StatusOK
}

// submit posts a task and returns the answer's status and body.
func (c client) submit(ctx context.Context, t taskRequest) (int, []byte, error) {
	body, err := json.Marshal(t)
	if err != nil {
		return 0, nil, err
	}
	return c.do(ctx, http.MethodPost, "/task", body)
}

// cancel ends one task. An answer other than 200 is an error, but for a task
// that has ended already.
func (c client) cancel(ctx context.Context, taskID string) error {
	status, answer, err := c.do(ctx, http.MethodDelete, "/task/"+url.PathEscape(taskID), nil)
	if err == nil && status != http.StatusOK && status != http.StatusConflict {
		err = fmt.Errorf("the server answered %d: %.300s", status, answer)
	}
	return err
}

func (c client) do(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	c.authorize(req.Header)
	resp, err := cmp.Or(c.http, http.DefaultClient).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// refusal is an answer of the server's that is an error.
type refusal struct {
	status int
	body   []byte
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the server answered %d: %.300s", r.status, r.body)
}

// stream opens the session's event stream. It is open when stream returns: a
// task submitted then is told from its beginning. Its error is a *refusal where
// the server answered.
func (c client) stream(ctx context.Context, sessionID string) (*websocket.Conn, error) {
	header := http.Header{}
	c.authorize(header)
	address := "ws" + strings.TrimPrefix(c.base, "http") + "/stream/" + url.PathEscape(sessionID)
	conn, resp, err := websocket.DefaultDialer.DialContext(ctx, address, header)
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		if resp != nil {
			text, _ := io.ReadAll(resp.Body) // cut short, it is still the best that there is
			return nil, &refusal{resp.StatusCode, text}
		}
		return nil, fmt.Errorf("open stream: %w; is the server at %s running?", err, c.base)
	}
	var connected streamEvent
	if err := conn.ReadJSON(&connected); err != nil {
		return nil, errors.Join(fmt.Errorf("open stream: %w", err), conn.Close())
	}
	return conn, nil
}

func (c client) authorize(h http.Header) {
	if c.key != "" {
		h.Set("Authorization", "Bearer "+c.key)
	}
}
