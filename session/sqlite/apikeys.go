package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"claude-runner/session"
)

const apiKeyColumns = `id, name, hash, scopes, agents, rate, concurrency, budget_usd, created_at, expires_at, revoked_at, last_used_at`

// CreateAPIKey writes a key and its line in the audit, or returns
// session.ErrNameTaken.
func (s *Store) CreateAPIKey(ctx context.Context, k session.APIKey, audit session.AuditEntry) error {
	scopes, err := json.Marshal(append([]session.Scope{}, k.Scopes...))
	if err != nil {
		return fmt.Errorf("encode scopes: %w", err)
	}
	agents, err := json.Marshal(append([]string{}, k.Agents...))
	if err != nil {
		return fmt.Errorf("encode agents: %w", err)
	}
	return s.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO api_keys (`+apiKeyColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (name) WHERE revoked_at = 0 DO NOTHING`,
			k.ID, k.Name, k.Hash, string(scopes), string(agents), k.Rate, k.Concurrency, k.BudgetUSD,
			nanos(k.CreatedAt), nanos(k.ExpiresAt), nanos(k.RevokedAt), nanos(k.LastUsedAt))
		if err != nil {
			return fmt.Errorf("write API key: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			if err == nil {
				err = session.ErrNameTaken
			}
			return err
		}
		return writeAudit(ctx, tx, audit)
	})
}

// APIKey returns one key, or session.ErrNotFound.
func (s *Store) APIKey(ctx context.Context, id string) (session.APIKey, error) {
	k, err := scanAPIKey(s.read.QueryRowContext(ctx, `SELECT `+apiKeyColumns+` FROM api_keys WHERE id = ?`, id))
	return k, found(err)
}

// APIKeys returns all keys, by name and age.
func (s *Store) APIKeys(ctx context.Context) ([]session.APIKey, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+apiKeyColumns+` FROM api_keys ORDER BY name, created_at, id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []session.APIKey{}
	for rows.Next() {
		k, err := scanAPIKey(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, rows.Err()
}

// RevokeAPIKey ends a key, and writes a line in the audit.
func (s *Store) RevokeAPIKey(ctx context.Context, nameOrID string, at time.Time, audit session.AuditEntry) (session.APIKey, error) {
	var k session.APIKey
	err := s.inTx(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		// An id goes before a name that looks like one.
		k, err = scanAPIKey(tx.QueryRowContext(ctx, `SELECT `+apiKeyColumns+` FROM api_keys
			WHERE id = ?1 OR name = ?1 AND revoked_at = 0 ORDER BY id = ?1 DESC LIMIT 1`, nameOrID))
		if err != nil || !k.RevokedAt.IsZero() {
			return found(err)
		}
		k.RevokedAt = at.UTC()
		if _, err := tx.ExecContext(ctx, `UPDATE api_keys SET revoked_at = ? WHERE id = ?`, nanos(at), k.ID); err != nil {
			return fmt.Errorf("write API key: %w", err)
		}
		audit.Target = k.ID
		return writeAudit(ctx, tx, audit)
	})
	return k, err
}

func (w *writer) writeUse(u session.KeyUse) error {
	if _, err := w.exec(w.noteUse, nanos(u.At), u.ID); err != nil {
		return fmt.Errorf("write an API key's use: %w", err)
	}
	return nil
}

func scanAPIKey(r row) (session.APIKey, error) {
	var k session.APIKey
	var scopes, agents []byte
	var created, expires, revoked, used int64
	err := r.Scan(&k.ID, &k.Name, &k.Hash, &scopes, &agents, &k.Rate, &k.Concurrency, &k.BudgetUSD, &created, &expires, &revoked, &used)
	if err != nil {
		return k, err
	}
	k.CreatedAt, k.ExpiresAt, k.RevokedAt, k.LastUsedAt = moment(created), moment(expires), moment(revoked), moment(used)
	if err := json.Unmarshal(scopes, &k.Scopes); err != nil {
		return k, fmt.Errorf("read scopes of API key %s: %w", k.ID, err)
	}
	if err := json.Unmarshal(agents, &k.Agents); err != nil {
		return k, fmt.Errorf("read agents of API key %s: %w", k.ID, err)
	}
	return k, nil
}

// SpentSince returns what a key's tasks cost that ended at or after a moment.
func (s *Store) SpentSince(ctx context.Context, owner string, since time.Time) (float64, error) {
	var spent float64
	err := s.read.QueryRowContext(ctx, `SELECT coalesce(sum(cost_usd), 0) FROM usage WHERE owner = ? AND owner <> '' AND ended_at >= ?`,
		owner, nanos(since)).Scan(&spent)
	return spent, err
}

// secretLength is how many random bytes a secret has.
const secretLength = 32

// Secret returns random bytes that this database has under a name, made at the
// first call.
func (s *Store) Secret(ctx context.Context, name string) ([]byte, error) {
	fresh := make([]byte, secretLength)
	rand.Read(fresh) // never fails
	var text string
	err := s.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT DO NOTHING`, "secret:"+name, hex.EncodeToString(fresh)); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = ?`, "secret:"+name).Scan(&text)
	})
	if err != nil {
		return nil, err
	}
	secret, err := hex.DecodeString(text)
	if err == nil && len(secret) != secretLength {
		err = fmt.Errorf("secret %s has %d bytes, want %d", name, len(secret), secretLength)
	}
	return secret, err
}
