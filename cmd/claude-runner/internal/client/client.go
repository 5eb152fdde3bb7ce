// Package client talks to a server of this program.
package client

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

// Client talks to a server. Its zero value but for Base will do.
type Client struct {
	Base string       // http://host:port, no slash at the end
	Key  string       // bearer; may be empty
	HTTP *http.Client // nil: the default one
}

// Task is the body of POST /task.
type Task struct {
	SessionID string            `json:"sessionId"`
	Message   string            `json:"message"`
	Context   string            `json:"context,omitempty"`
	Agent     string            `json:"agent,omitempty"`
	Backend   string            `json:"backend,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
}

// Event is what a person is shown of an event.
type Event struct {
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

// Healthy reports whether a server answers.
func (c Client) Healthy(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	status, _, err := c.Do(ctx, http.MethodGet, "/health", nil)
	return err == nil && status == http.StatusOK
}

// Submit posts a task and returns the answer's status and body.
func (c Client) Submit(ctx context.Context, t Task) (int, []byte, error) {
	body, err := json.Marshal(t)
	if err != nil {
		return 0, nil, err
	}
	return c.Do(ctx, http.MethodPost, "/task", body)
}

// Cancel ends one task. An answer other than 200 is an error, but for a task
// that has ended already.
func (c Client) Cancel(ctx context.Context, taskID string) error {
	status, answer, err := c.Do(ctx, http.MethodDelete, "/task/"+url.PathEscape(taskID), nil)
	if err == nil && status != http.StatusOK && status != http.StatusConflict {
		err = fmt.Errorf("the server answered %d: %.300s", status, answer)
	}
	return err
}

// Do makes a request and returns the answer's status and body.
func (c Client) Do(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	c.authorize(req.Header)
	resp, err := cmp.Or(c.HTTP, http.DefaultClient).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// Refusal is an answer of the server's that is an error.
type Refusal struct {
	Status int
	Body   []byte
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("the server answered %d: %.300s", r.Status, r.Body)
}

// Stream opens the session's event stream. It is open when Stream returns: a
// task submitted then is told from its beginning. Its error is a *Refusal where
// the server answered.
func (c Client) Stream(ctx context.Context, sessionID string) (*websocket.Conn, error) {
	header := http.Header{}
	c.authorize(header)
	address := "ws" + strings.TrimPrefix(c.Base, "http") + "/stream/" + url.PathEscape(sessionID)
	conn, resp, err := websocket.DefaultDialer.DialContext(ctx, address, header)
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		if resp != nil {
			text, _ := io.ReadAll(resp.Body) // cut short, it is still the best that there is
			return nil, &Refusal{resp.StatusCode, text}
		}
		return nil, fmt.Errorf("open stream: %w; is the server at %s running?", err, c.Base)
	}
	var connected Event
	if err := conn.ReadJSON(&connected); err != nil {
		return nil, errors.Join(fmt.Errorf("open stream: %w", err), conn.Close())
	}
	return conn, nil
}

func (c Client) authorize(h http.Header) {
	if c.Key != "" {
		h.Set("Authorization", "Bearer "+c.Key)
	}
}
