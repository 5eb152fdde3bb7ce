package bench

import (
	"fmt"
	"sync"
	"time"

	"claude-runner/agent/scripted"
)

// modelServer answers at once, and knows when it was asked what.
type modelServer struct {
	server *scripted.Server
	url    string // on loopback

	mu    sync.Mutex
	asked map[string]time.Time // by message: the first request
}

// modelAnswer is what the model says to all.
const modelAnswer = "done"

func startModel() (*modelServer, error) {
	m := &modelServer{asked: map[string]time.Time{}}
	script, err := scripted.Parse([]byte("rules: [{answer: [{text: " + modelAnswer + "}]}]"))
	if err != nil {
		return nil, err
	}
	m.server = scripted.New(script, scripted.Options{OnRequest: m.note, KeepRequests: -1})
	m.url, err = m.server.Listen("127.0.0.1:0")
	return m, err
}

func (m *modelServer) note(r scripted.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.asked[r.View.Message]; !ok {
		m.asked[r.View.Message] = r.At
	}
}

// take returns when the model was first asked a message, and forgets it.
func (m *modelServer) take(message string) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.asked[message]
	if !ok {
		return at, fmt.Errorf("the model was never asked %q", message)
	}
	delete(m.asked, message)
	return at, nil
}
