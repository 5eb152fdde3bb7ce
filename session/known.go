package session

import "context"

// known is what the store has of a session that is at work, so that a task need
// not ask for it. Manager.mu guards it.
type known struct {
	session *Session // nil: not known
	changes int      // counts what made an earlier answer of the store old
}

// storedSession returns a session that is at work, as the store has it but for
// Session.UpdatedAt.
func (m *Manager) storedSession(ctx context.Context, l *live) (Session, error) {
	m.mu.Lock()
	s, changes := l.known.session, l.known.changes
	m.mu.Unlock()
	if s != nil {
		return *s, nil
	}
	stored, err := m.opts.Store.Session(ctx, l.id)
	if err != nil {
		return Session{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.known.changes == changes {
		l.known.session = &stored
	}
	return stored, nil
}

// forgetSession has the store asked again. It is called once the store has
// changed, or failed to.
func (m *Manager) forgetSession(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.live[id]; l != nil {
		l.known = known{changes: l.known.changes + 1}
	}
}

// noteEnd makes of what is known what the store made of a task's end. m.mu is
// held.
func (m *Manager) noteEnd(e Ending) {
	l := m.live[e.Task.SessionID]
	if l == nil {
		return
	}
	l.known.changes++
	if l.known.session == nil {
		return
	}
	s := *l.known.session
	if e.AgentID != "" {
		s.AgentID = e.AgentID
	}
	s.Turns += e.Turns
	s.CostUSD += e.Task.Result.CostUSD
	l.known.session = &s
}
