package session

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// hash tells submissions apart.
func (s Submission) hash() string {
	all := []any{s.SessionID, s.Agent, s.Request}
	if w := s.Request.Webhook; w != nil {
		all = append(all, w.URL, w.Secret.Reveal())
	}
	data, err := json.Marshal(all)
	if err != nil { // can't be: all of it is plain data
		panic("session: encode submission: " + err.Error())
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// key returns the submission's key for its task, or nil without one.
func (s Submission) key(t Task) *Key {
	if s.Key == "" {
		return nil
	}
	return &Key{Caller: s.Caller.KeyID, Name: s.Key, Hash: s.hash(), TaskID: t.ID, At: t.CreatedAt}
}

// known returns the task that the submission's key stands for, if it came
// before.
func (m *Manager) known(ctx context.Context, s Submission) (Task, bool, error) {
	if s.Key == "" {
		return Task{}, false, nil
	}
	k, err := m.opts.Store.Key(ctx, s.Caller.KeyID, s.Key)
	if errors.Is(err, ErrNotFound) || err == nil && m.opts.Now().Sub(k.At) > KeyLife {
		return Task{}, false, nil
	}
	if err != nil {
		return Task{}, false, storageError("read idempotency key", err)
	}
	if k.Hash != s.hash() {
		return Task{}, false, &Error{Code: CodeKeyReused, Field: "Idempotency-Key", Message: "this Idempotency-Key came with another request before; use a new key for a new request"}
	}
	t, err := m.Task(ctx, k.TaskID)
	return t, err == nil, err
}
