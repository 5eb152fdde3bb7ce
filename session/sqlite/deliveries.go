package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"claude-runner/agent"
	"claude-runner/session"
)

const deliveryColumns = `id, task_id, type, agent, url, secret, payload, state, attempts, last_status, last_error, created_at, next_attempt, ended_at`

// Deliveries returns those of a task, the oldest first, without payloads and
// secrets.
func (s *Store) Deliveries(ctx context.Context, taskID string) ([]session.Delivery, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM deliveries WHERE task_id = ? ORDER BY created_at, id`, taskID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []session.Delivery{}
	for rows.Next() {
		d, err := scanDelivery(rows)
		if err != nil {
			return nil, err
		}
		d.Payload, d.Webhook.Secret = nil, ""
		out = append(out, d)
	}
	return out, rows.Err()
}

// NextDelivery returns the pending delivery whose next attempt comes first, but
// for those that skip names.
func (s *Store) NextDelivery(ctx context.Context, skip session.DeliverySkip) (session.Delivery, error) {
	ids, err := json.Marshal(append([]string{}, skip.IDs...)) // never null, which IN would take for a value
	if err != nil {
		return session.Delivery{}, err
	}
	hosts, err := json.Marshal(append([]string{}, skip.Hosts...))
	if err != nil {
		return session.Delivery{}, err
	}
	d, err := scanDelivery(s.read.QueryRowContext(ctx, `SELECT `+deliveryColumns+` FROM deliveries WHERE state = 'pending'
		AND id NOT IN (SELECT value FROM json_each(?)) AND host NOT IN (SELECT value FROM json_each(?))
		ORDER BY next_attempt LIMIT 1`, string(ids), string(hosts)))
	return d, found(err)
}

// UpdateDelivery writes the outcome of an attempt. A delivery that has ended
// forgets what was sent and the secret.
func (s *Store) UpdateDelivery(ctx context.Context, d session.Delivery) error {
	return s.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE deliveries SET url = ?, host = ?, state = ?, attempts = ?, last_status = ?, last_error = ?,
			next_attempt = ?, ended_at = ?, secret = CASE WHEN ?8 = 0 THEN secret ELSE '' END, payload = CASE WHEN ?8 = 0 THEN payload ELSE x'' END
			WHERE id = ? AND state = 'pending'`,
			d.Webhook.URL, d.Host(), d.State, d.Attempts, d.LastStatus, d.LastError, nanos(d.NextAttempt), nanos(d.EndedAt), d.ID)
		if err != nil {
			return fmt.Errorf("write delivery: %w", err)
		}
		return nil
	})
}

// writeDelivery writes a delivery with the end that it tells.
func (w *writer) writeDelivery(d session.Delivery) error {
	_, err := w.exec(w.enqueue,
		d.Host(), d.ID, d.TaskID, string(d.Type), d.Agent, d.Webhook.URL, d.Webhook.Secret.Reveal(), d.Payload,
		string(d.State), int64(d.Attempts), int64(d.LastStatus), d.LastError, nanos(d.CreatedAt), nanos(d.NextAttempt), nanos(d.EndedAt))
	if err != nil {
		return fmt.Errorf("write delivery: %w", err)
	}
	return nil
}

func scanDelivery(r row) (session.Delivery, error) {
	var d session.Delivery
	var secret string
	var created, next, ended int64
	err := r.Scan(&d.ID, &d.TaskID, &d.Type, &d.Agent, &d.Webhook.URL, &secret, &d.Payload,
		&d.State, &d.Attempts, &d.LastStatus, &d.LastError, &created, &next, &ended)
	d.Webhook.Secret = agent.Secret(secret)
	d.CreatedAt, d.NextAttempt, d.EndedAt = moment(created), moment(next), moment(ended)
	return d, err
}

// webhook is a task's own webhook as it is stored.
type webhook struct {
	URL    string `json:"url"`
	Secret string `json:"secret"`
}

func encodeWebhook(w *agent.Webhook) (string, error) {
	if w == nil {
		return "", nil
	}
	data, err := json.Marshal(webhook{w.URL, w.Secret.Reveal()})
	return string(data), err
}

func decodeWebhook(text string) (*agent.Webhook, error) {
	if text == "" {
		return nil, nil
	}
	var w webhook
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return nil, err
	}
	return &agent.Webhook{URL: w.URL, Secret: agent.Secret(w.Secret)}, nil
}
