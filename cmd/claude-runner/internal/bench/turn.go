package bench

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/fasthttp/websocket"

	"claude-runner/cmd/claude-runner/internal/client"
)

// moments are a turn's, counted from when its message was sent.
type moments struct {
	request time.Duration // the model's first request
	words   time.Duration // the first words at the client, over its stream
	answer  time.Duration // the whole answer
	ended   time.Duration // all is gone again; 0 where nothing ends
}

// turn runs a task over HTTP as a client with a stream does. The stream is open
// before the clock starts.
func (s *server) turn(ctx context.Context, agentName, session string, env map[string]string) (moments, error) {
	conn, err := s.client.Stream(ctx, session)
	if err != nil {
		return moments{}, err
	}
	defer conn.Close()
	words := make(chan time.Time, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		firstWords(conn, words)
	}()
	mark := s.lab.mark()
	begun := time.Now()
	status, answer, err := s.client.Submit(ctx, client.Task{SessionID: session, Agent: agentName, Message: mark, Env: env})
	m := moments{answer: time.Since(begun)}
	if err == nil {
		err = conn.SetReadDeadline(time.Now().Add(time.Second)) // the stream may be a little behind
	}
	if err != nil {
		err = fmt.Errorf("submit: %w", err)
	} else if status != http.StatusOK {
		err = fmt.Errorf("submit: %w", &client.Refusal{Status: status, Body: answer})
	}
	if err != nil {
		conn.Close()
		<-read
		return m, err
	}
	<-read
	asked, err := s.lab.model.take(mark)
	if err != nil {
		return m, err
	}
	m.request = asked.Sub(begun)
	select {
	case at := <-words:
		m.words = at.Sub(begun)
	default:
		return m, fmt.Errorf("the stream of %s told no words", session)
	}
	return m, nil
}

// firstWords reads a stream to its task's end, and tells when words came first.
func firstWords(conn *websocket.Conn, words chan<- time.Time) {
	told := false
	for {
		var e client.Event
		if err := conn.ReadJSON(&e); err != nil {
			return
		}
		if e.Type == "text" && !told {
			told = true
			words <- time.Now()
		}
		if e.Type == "task_complete" || e.Type == "task_error" || e.Type == "abort" {
			return
		}
	}
}

// session returns a name that no session had.
func (s *server) session() string { return fmt.Sprintf("bench-%d", s.lab.marks.Add(1)) }

// newTurn is a turn of a new session, which is deleted behind it.
func (s *server) newTurn(ctx context.Context, agentName string, env map[string]string) (moments, error) {
	session := s.session()
	m, err := s.turn(ctx, agentName, session, env)
	if err != nil {
		return m, err
	}
	return m, s.delete(ctx, session)
}

// firstTurn is a server's first, which is not to be measured: the page cache,
// connections, and what an engine takes to say what it is.
func (s *server) firstTurn(ctx context.Context, agentName string) error {
	if _, err := s.newTurn(ctx, agentName, nil); err != nil {
		return fmt.Errorf("the first task: %w", err)
	}
	return nil
}
