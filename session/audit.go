package session

import (
	"context"
	"errors"
	"time"
)

// AuditEntry is one thing that a caller did, or was refused. It holds no
// message, no secret and nothing of an agent's answer.
type AuditEntry struct {
	Seq       int64 // set by the store; counts up
	At        time.Time
	RequestID string
	KeyID     string // "": a key of the configuration, the command line, or nobody's
	KeyName   string
	Remote    string // the caller's address; "" for what came without a network
	Action    string // such as submit, delete, read.session, keys.revoke
	Session   string
	Task      string
	Agent     string
	Target    string // what else it was done to, such as a key's id
	Status    int    // of HTTP; 202 is a task that was taken
	Code      Code   // of a refusal; "" for none
}

// AuditQuery selects entries; zero fields select all.
type AuditQuery struct {
	After   int64  // only those with a higher Seq
	Session string // only of this session
	Key     string // only of the key with this id or name
	Limit   int    // 0: 100
}

// Audit writes an entry down: before it returns with wait, else soon after, and
// then it is an error where the database can't be written. Those under way are
// written when the Manager closes, and later ones at once.
func (m *Manager) Audit(ctx context.Context, e AuditEntry, wait bool) error {
	if e.At.IsZero() {
		e.At = time.Now().UTC()
	}
	c := Change{Audit: &e}
	var err error
	if wait {
		err = m.events.Write("", c, true)
	} else {
		err = m.events.offer(&entry{change: c})
	}
	if errors.Is(err, ErrLogClosed) {
		err = m.opts.Store.Apply(ctx, []Change{c})
	}
	if err != nil {
		return storageError("write the audit", err)
	}
	return nil
}

// AuditTrail returns entries of the audit, the oldest first.
func (m *Manager) AuditTrail(ctx context.Context, q AuditQuery) ([]AuditEntry, error) {
	entries, err := m.opts.Store.Audit(ctx, q)
	if err != nil {
		return nil, storageError("read the audit", err)
	}
	return entries, nil
}
