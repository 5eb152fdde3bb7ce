package session

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/google/uuid"

	"claude-runner/agent"
)

// Delivery is the message that tells a webhook of a task's end. It is written
// with that end, and sent until the receiver takes it or its attempts are used
// up. The receiver may get it more than once, always with the same ID.
type Delivery struct {
	ID     string
	TaskID string
	Type   agent.EventType // EventTaskComplete or EventTaskError
	// Agent is whose profile says at each attempt where it goes; "" where the
	// task brought its own Webhook.
	Agent string
	// Webhook is where it goes, or went last. A profile's Secret is not in it.
	Webhook agent.Webhook
	Payload []byte // JSON; with the Secret, forgotten once the delivery has ended

	State       DeliveryState
	Attempts    int
	LastStatus  int    // HTTP status of the last attempt; 0 where no answer came
	LastError   string // why the last attempt failed
	CreatedAt   time.Time
	NextAttempt time.Time // while it is pending
	EndedAt     time.Time // zero before
}

// DeliveryState is where a delivery stands.
type DeliveryState string

// A delivery's states. The last two are ends.
const (
	DeliveryPending   DeliveryState = "pending"
	DeliveryDelivered DeliveryState = "delivered"
	DeliveryFailed    DeliveryState = "failed"
)

// Host is the receiver's host and port, as the URL writes them.
func (d Delivery) Host() string {
	u, err := url.Parse(d.Webhook.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// Target is the receiver's URL, fit to be shown: without what may be a secret
// in it.
func (d Delivery) Target() string {
	u, err := url.Parse(d.Webhook.URL)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// DeliveryQueue is what there is to deliver.
type DeliveryQueue interface {
	// NextDelivery returns the pending delivery whose next attempt comes first,
	// but for those that skip names, or ErrNotFound.
	NextDelivery(ctx context.Context, skip DeliverySkip) (Delivery, error)
	// UpdateDelivery writes the outcome of an attempt. A delivery that has ended,
	// or whose session was deleted meanwhile, stays as it is.
	UpdateDelivery(ctx context.Context, d Delivery) error
}

// DeliverySkip leaves out deliveries.
type DeliverySkip struct {
	IDs   []string
	Hosts []string
}

// Undelivered holds a token when deliveries were written since it was last
// received from.
func (m *Manager) Undelivered() <-chan struct{} { return m.undelivered }

// Deliveries returns the deliveries of a task, the oldest first, without
// payloads and secrets.
func (m *Manager) Deliveries(ctx context.Context, taskID string) ([]Delivery, error) {
	out, err := m.opts.Store.Deliveries(ctx, taskID)
	if err != nil {
		return nil, storageError("read deliveries", err)
	}
	return out, nil
}

// checkWebhook refuses a task's own webhook that will not do.
func (m *Manager) checkWebhook(w *agent.Webhook) error {
	if w == nil {
		return nil
	}
	invalid := func(field string, err error) error {
		return &Error{Code: CodeInvalid, Field: field, Message: field + " " + err.Error()}
	}
	if err := w.CheckURL(m.opts.PrivateWebhooks); err != nil {
		return invalid("webhook.url", err)
	}
	if err := w.CheckSecret(); err != nil {
		return invalid("webhook.secret", err)
	}
	return nil
}

// delivery returns what tells the end of t, or nil where nobody wants to know:
// the task's own webhook goes before the profile's.
func (m *Manager) delivery(t Task) *Delivery {
	d := &Delivery{
		ID: "msg_" + uuid.Must(uuid.NewV7()).String(), TaskID: t.ID, Type: messageType(t.State),
		State: DeliveryPending, CreatedAt: t.EndedAt, NextAttempt: t.EndedAt,
	}
	if t.Request.Webhook != nil {
		d.Webhook = *t.Request.Webhook
		return d
	}
	d.Agent, d.Webhook.URL = t.Agent, m.Profiles().ByName[t.Agent].Webhook.URL
	if d.Webhook.URL == "" {
		return nil
	}
	return d
}

// messageType is what a webhook calls an end: every one but success is an
// error, whose code says which.
func messageType(s TaskState) agent.EventType {
	if s == TaskSucceeded {
		return EventTaskComplete
	}
	return EventTaskError
}

// telling returns e with a delivery that says what the event says.
func (e Ending) telling(event Event) (*Ending, error) {
	d := *e.Delivery
	event.Type = d.Type
	payload, err := json.Marshal(struct {
		Type      agent.EventType `json:"type"`
		Timestamp time.Time       `json:"timestamp"`
		Data      Event           `json:"data"`
	}{d.Type, event.Time, event})
	if err != nil {
		return nil, fmt.Errorf("encode message to webhook: %w", err)
	}
	d.Payload = payload
	e.Delivery = &d
	return &e, nil
}

// wakeSender tells of a new delivery.
func (m *Manager) wakeSender() {
	select {
	case m.undelivered <- struct{}{}:
	default:
	}
}
