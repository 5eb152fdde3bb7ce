package session

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Keyring knows the API keys of the store. One that is made there, by this
// process or another, is known at once, and one that is revoked within KeyringAge.
type Keyring struct {
	store CallerStore
	used  func(KeyUse) // writes down that a key was used

	ring atomic.Pointer[ring]

	mu    sync.Mutex           // one load at a time
	noted map[string]time.Time // when each key's use was last written down
}

// KeyringAge is how old what a Keyring knows may be.
const KeyringAge = time.Second

// useInterval is how often a key's use is written down.
const useInterval = 30 * time.Second

// ring is the keys as they were at a moment.
type ring struct {
	at   time.Time
	byID map[string]APIKey
}

func newKeyring(store CallerStore, used func(KeyUse)) *Keyring {
	return &Keyring{store: store, used: used, noted: map[string]time.Time{}}
}

// Any reports whether there are keys, be they of use or not. Where there are,
// callers are asked for one; so that the last key's end lets nobody in.
func (k *Keyring) Any(ctx context.Context) (bool, error) {
	r, err := k.current(ctx, KeyringAge)
	return err == nil && len(r.byID) > 0, err
}

// Find returns the key that a secret is of. Its error is a *KeyError where the
// secret is of no use.
func (k *Keyring) Find(ctx context.Context, secret string) (APIKey, error) {
	id := SecretID(secret)
	if id == "" {
		return APIKey{}, &KeyError{Reason: "is not known"}
	}
	key, ok, err := k.get(ctx, id)
	if err != nil {
		return APIKey{}, err
	}
	sum := sha256.Sum256([]byte(secret))
	if !ok || subtle.ConstantTimeCompare(sum[:], key.Hash) != 1 {
		return APIKey{}, &KeyError{Reason: "is not known"}
	}
	if err := k.usable(key); err != nil {
		return APIKey{}, err
	}
	k.note(key)
	return key, nil
}

// ByID returns the key with an id. Its error is a *KeyError where the key is of
// no use.
func (k *Keyring) ByID(ctx context.Context, id string) (APIKey, error) {
	key, ok, err := k.get(ctx, id)
	switch {
	case err != nil:
		return APIKey{}, err
	case !ok:
		return APIKey{}, &KeyError{Reason: "is not known"}
	}
	return key, k.usable(key)
}

func (k *Keyring) usable(key APIKey) error {
	if reason := key.Trouble(time.Now()); reason != "" {
		return &KeyError{Name: key.Name, Reason: reason}
	}
	return nil
}

// KeyError says why a key is of no use.
type KeyError struct {
	Name   string // "" where it is not known
	Reason string // goes on after "the key"
}

func (e *KeyError) Error() string {
	if e.Name == "" {
		return "the key " + e.Reason
	}
	return "the key " + quote(e.Name) + " " + e.Reason
}

// get returns the key with an id, of use or not.
func (k *Keyring) get(ctx context.Context, id string) (APIKey, bool, error) {
	r, err := k.current(ctx, KeyringAge)
	if err != nil {
		return APIKey{}, false, err
	}
	if key, ok := r.byID[id]; ok {
		return key, true, nil
	}
	// It may have been made a moment ago.
	key, err := k.store.APIKey(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return APIKey{}, false, nil
	}
	if err != nil {
		return APIKey{}, false, storageError("read API key", err)
	}
	_, err = k.current(ctx, 0)
	return key, true, err
}

// last returns the key with an id as it was last read, without reading.
func (k *Keyring) last(id string) APIKey {
	if r := k.ring.Load(); r != nil {
		return r.byID[id]
	}
	return APIKey{}
}

// current returns the keys as they were at most age ago.
func (k *Keyring) current(ctx context.Context, age time.Duration) (*ring, error) {
	if r := k.ring.Load(); r != nil && time.Since(r.at) <= age {
		return r, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.ring.Load(); r != nil && time.Since(r.at) <= age {
		return r, nil
	}
	r := &ring{at: time.Now(), byID: map[string]APIKey{}}
	keys, err := k.store.APIKeys(ctx)
	if err != nil {
		return nil, storageError("read API keys", err)
	}
	for _, key := range keys {
		r.byID[key.ID] = key
	}
	k.ring.Store(r)
	return r, nil
}

// note has it written down now and then that a key is used.
func (k *Keyring) note(key APIKey) {
	now := time.Now()
	if now.Sub(key.LastUsedAt) < useInterval {
		return
	}
	k.mu.Lock()
	due := now.Sub(k.noted[key.ID]) >= useInterval
	if due {
		k.noted[key.ID] = now
	}
	k.mu.Unlock()
	if due {
		k.used(KeyUse{ID: key.ID, At: now})
	}
}
