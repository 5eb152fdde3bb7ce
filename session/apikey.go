package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// APIKey is a key that a caller sends. Its secret is shown to who makes it and
// known to nobody after: only its hash is kept.
type APIKey struct {
	ID          string // part of the secret; owns sessions
	Name        string // for people; one key that is not revoked has it
	Hash        []byte // SHA-256 of the secret
	Scopes      []Scope
	Agents      []string // that it may use; none: every one
	Rate        int      // submits per minute; 0: no limit
	Concurrency int      // tasks at once; 0: no limit
	BudgetUSD   float64  // of a day, UTC; 0: no limit
	CreatedAt   time.Time
	ExpiresAt   time.Time // zero: never
	RevokedAt   time.Time // zero: it is not
	LastUsedAt  time.Time // to half a minute; zero: never
}

// Trouble says why the key is of no use at a moment, or is "".
func (k APIKey) Trouble(now time.Time) string {
	switch {
	case !k.RevokedAt.IsZero():
		return "was revoked"
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return "expired at " + k.ExpiresAt.Format(time.RFC3339)
	}
	return ""
}

// The form of a secret is crk_ID_RANDOM.
const (
	secretPrefix = "crk_"
	secretBytes  = 32 // random ones
)

var (
	secretForm = regexp.MustCompile(`^crk_([a-z2-7]{10,26})_[A-Za-z0-9_-]{43}$`)
	keyName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
)

// NewAPIKey gives k an id and a hash, and returns it with its secret. Its
// error says what of k will not do.
func NewAPIKey(k APIKey) (APIKey, string, error) {
	if err := k.validate(); err != nil {
		return APIKey{}, "", err
	}
	random := make([]byte, secretBytes)
	rand.Read(random) // never fails
	k.ID = strings.ToLower(rand.Text()[:12])
	secret := secretPrefix + k.ID + "_" + base64.RawURLEncoding.EncodeToString(random)
	sum := sha256.Sum256([]byte(secret))
	k.Hash = sum[:]
	return k, secret, nil
}

func (k APIKey) validate() error {
	switch {
	case !keyName.MatchString(k.Name):
		return fmt.Errorf("name: %.80q will not do; want 1 to 63 letters, digits, '-', '_' or '.' beginning with a letter or digit", k.Name)
	case len(k.Scopes) == 0:
		return errors.New("scopes: a key without any can do nothing; want some of " + scopeNames())
	case k.Rate < 0:
		return fmt.Errorf("rate: %d is below zero; want submits per minute, or 0 for no limit", k.Rate)
	case k.Concurrency < 0:
		return fmt.Errorf("concurrency: %d is below zero; want tasks at once, or 0 for no limit", k.Concurrency)
	case !(k.BudgetUSD >= 0 && k.BudgetUSD < 1e9):
		return fmt.Errorf("budget: %v will not do; want US dollars of a day, or 0 for no limit", k.BudgetUSD)
	}
	for _, s := range k.Scopes {
		if !slices.Contains(Scopes, s) {
			return fmt.Errorf("scopes: %.80q is none; want some of %s", string(s), scopeNames())
		}
	}
	return nil
}

func scopeNames() string {
	names := make([]string, len(Scopes))
	for i, s := range Scopes {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

// SecretID returns the id of the key that a secret is of, as its form says;
// "" where it is none.
func SecretID(secret string) string {
	m := secretForm.FindStringSubmatch(secret)
	if m == nil {
		return ""
	}
	return m[1]
}

// KeyUse is that a key was used.
type KeyUse struct {
	ID string
	At time.Time
}

// CallerStore keeps who may call, and what they did.
type CallerStore interface {
	// CreateAPIKey writes a key and its line in the audit; ErrNameTaken where
	// another one that is not revoked has its name.
	CreateAPIKey(ctx context.Context, k APIKey, audit AuditEntry) error
	// APIKey returns one, or ErrNotFound.
	APIKey(ctx context.Context, id string) (APIKey, error)
	// APIKeys returns all, revoked ones included, by name and age.
	APIKeys(ctx context.Context) ([]APIKey, error)
	// RevokeAPIKey ends the key with that id, or the one that is not revoked
	// with that name, and writes a line in the audit. ErrNotFound: there is none;
	// a key that was revoked before stays as it is.
	RevokeAPIKey(ctx context.Context, nameOrID string, at time.Time, audit AuditEntry) (APIKey, error)
	// SpentSince returns what an owner's tasks cost that ended at or after a
	// moment, deleted sessions included, in US dollars.
	SpentSince(ctx context.Context, owner string, since time.Time) (float64, error)
	// Secret returns random bytes that this database has under a name, made at
	// the first call.
	Secret(ctx context.Context, name string) ([]byte, error)
	// Audit returns entries in the order in which they were written.
	Audit(ctx context.Context, q AuditQuery) ([]AuditEntry, error)
}
