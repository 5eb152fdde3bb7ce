package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	startTimeout = 20 * time.Second // for a daemon to answer
	askTimeout   = 30 * time.Second // for an answer
)

// Client speaks to a gateway in a process of its own, and starts another one
// when that has ended: its leases are then opened again. Its methods may be
// called from any goroutine.
type Client struct {
	dir     string
	log     *slog.Logger
	http    *http.Client
	key     atomic.Pointer[string] // of the daemon; nil: to be read
	batches *batches

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	openings openings
	starting sync.Mutex // one start at a time
	children []*os.Process

	mu       sync.Mutex
	leases   map[string]Lease // what this client has opened
	instance string           // of the daemon that knows them
}

// Start connects to the gateway of options.StateDir, and starts it where none
// answers. Shutdown ends the client.
func Start(ctx context.Context, options Options) (*Client, error) {
	dir, err := filepath.Abs(options.StateDir)
	if err != nil {
		return nil, fmt.Errorf("start the gateway: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("start the gateway: make its folder: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("start the gateway: close its folder to others: %w", err)
	}
	c := &Client{dir: dir, log: options.Log, leases: map[string]Lease{}, batches: newBatches()}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.http = &http.Client{Transport: &http.Transport{DialContext: c.dial, MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.ensure(ctx); err != nil {
		c.cancel()
		return nil, err
	}
	c.work.Go(c.keepAlive)
	c.work.Go(c.sendBatches)
	return c, nil
}

// Open makes the lease's socket and serves it, or replaces the lease of the
// same ID. The lease is opened again after the gateway's process has ended.
func (c *Client) Open(ctx context.Context, l Lease) error {
	c.mu.Lock()
	before, had := c.leases[l.ID]
	c.leases[l.ID] = l
	c.mu.Unlock()
	if had && renews(l, before) {
		_, err := c.quick(ctx, pathRenew, question{Lease: l.ID, Meter: l.Meter, Budgets: l.Budgets})
		if err == nil || ctx.Err() != nil {
			return err
		}
		// Whatever it is, opening it says so, or mends it.
	}
	err := c.open(ctx, l)
	if errors.Is(err, ErrInvalidLease) {
		c.mu.Lock()
		if delete(c.leases, l.ID); had {
			c.leases[l.ID] = before
		}
		c.mu.Unlock()
	}
	return err
}

// open has the daemon open the lease, and returns when ctx ends at the latest.
func (c *Client) open(ctx context.Context, l Lease) error {
	opened := make(chan error, 1)
	over := c.openings.begin(l.ID)
	c.work.Go(func() {
		defer over()
		opened <- c.ask(c.ctx, pathOpen, newWireLease(l), nil)
	})
	select {
	case err := <-opened:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends the lease's connections, waits until what they cost is counted,
// and removes its socket. Its counters stay until Forget. A lease that is not
// there is no error.
func (c *Client) Close(ctx context.Context, leaseID string) error {
	c.mu.Lock()
	delete(c.leases, leaseID)
	c.mu.Unlock()
	if err := c.openings.wait(ctx, leaseID); err != nil {
		return fmt.Errorf("close a lease of the gateway: it is still being opened: %w", err)
	}
	return c.ask(ctx, pathClose, question{Lease: leaseID}, nil)
}

// Totals returns what was called under the meter: nothing, where it is not known.
func (c *Client) Totals(ctx context.Context, meter string) (Totals, error) {
	return c.quick(ctx, pathTotals, question{Meter: meter})
}

// Forget drops the meter's counters, soon: with the next question. Those of a
// gateway that ends meanwhile stay in its book for a week.
func (c *Client) Forget(_ context.Context, meter string) error {
	c.batches.add(&call{Path: pathForget, question: question{Meter: meter}})
	return nil
}

// Refusals is Gateway.Refusals.
func (c *Client) Refusals(ctx context.Context, leaseID string, after int64) ([]Refusal, error) {
	for {
		var found []Refusal
		if err := c.ask(ctx, pathRefusals, question{Lease: leaseID, After: after}, &found); err != nil || len(found) > 0 {
			return found, err
		}
	}
}

// Leases returns all leases, those of earlier clients too, by ID.
func (c *Client) Leases(ctx context.Context) ([]OpenLease, error) {
	var open []OpenLease
	err := c.ask(ctx, pathLeases, question{}, &open)
	return open, err
}

// Shutdown ends the client, and the gateway where it has no leases and no other
// client. A gateway with leases goes on.
func (c *Client) Shutdown(ctx context.Context) error {
	c.cancel()
	c.work.Wait()
	c.batches.lazy.Stop()
	var to sender
	for range c.batches.waiting() { // what nobody waits for
		c.sendBatch(ctx, &to)
	}
	to.close()
	defer c.http.CloseIdleConnections()
	_, err := c.once(ctx, pathShutdown, []byte("{}"), nil)
	if err == nil {
		c.await(ctx)
	}
	var gone *goneError
	if errors.Is(err, errInUse) || errors.As(err, &gone) {
		return nil
	}
	return err
}

// keepAlive notices when the daemon is gone, and starts another where a lease
// needs it.
func (c *Client) keepAlive() {
	for c.ctx.Err() == nil {
		_, err := c.once(c.ctx, pathWatch, []byte("{}"), nil)
		if err == nil {
			continue
		}
		c.mu.Lock()
		needed := len(c.leases) > 0
		c.mu.Unlock()
		if needed && c.ctx.Err() == nil {
			if err := c.ensure(c.ctx); err != nil && c.ctx.Err() == nil {
				c.log.Error("the gateway is gone and cannot be started", "error", err)
			} else if err == nil {
				continue
			}
		}
		select {
		case <-c.ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// ask puts a question, again where the daemon has gone meanwhile.
func (c *Client) ask(ctx context.Context, path string, v, answer any) error {
	return c.insist(ctx, func() (string, error) { return c.onceAbout(ctx, path, v, answer) })
}

// insist has a question put again where the daemon has gone meanwhile, or knew
// this client's leases not yet. put says which daemon answered.
func (c *Client) insist(ctx context.Context, put func() (instance string, err error)) error {
	for attempt := 0; ; attempt++ {
		instance, err := put()
		if instance != "" && c.isNew(ctx, instance) && errors.Is(err, ErrNoLease) && attempt < 3 {
			continue // the lease was opened again
		}
		var gone *goneError
		if err == nil || !errors.As(err, &gone) || attempt == 3 {
			return err
		}
		if err := c.ensure(ctx); err != nil {
			return err
		}
	}
}

// goneError is a question without an answer: the daemon is not there.
type goneError struct{ error }

func (e *goneError) Unwrap() error { return e.error }

// statusError is an answer that no gateway gives, or one of another version.
type statusError struct{ status int }

func (e *statusError) Error() string {
	return fmt.Sprintf("the gateway answers %d %s", e.status, http.StatusText(e.status))
}

// onceAbout is once with a question that is yet to be encoded.
func (c *Client) onceAbout(ctx context.Context, path string, v, answer any) (instance string, err error) {
	body, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return c.once(ctx, path, body, answer)
}

// once puts a question and says which daemon answered.
func (c *Client) once(ctx context.Context, path string, body []byte, answer any) (instance string, err error) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, key, err := c.request(asking, path, body)
	if err != nil {
		return "", err
	}
	response, err := c.http.Do(r)
	if err != nil {
		return "", c.unanswered(ctx, key, err)
	}
	defer response.Body.Close()
	instance = response.Header.Get(instanceHeader)
	data, err := io.ReadAll(response.Body)
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", &goneError{fmt.Errorf("read the gateway's answer: %w", err)}
	}
	if response.StatusCode == http.StatusUnauthorized {
		return "", c.unauthorized(key)
	}
	if response.StatusCode != http.StatusOK {
		var e remoteError
		if err := json.Unmarshal(data, &e.complaint); err != nil || e.complaint.Error == "" {
			return instance, &statusError{response.StatusCode}
		}
		return instance, &e
	}
	if answer != nil {
		err = json.Unmarshal(data, answer)
	}
	return instance, err
}

// request is a question with the daemon's key.
func (c *Client) request(ctx context.Context, path string, body []byte) (r *http.Request, key *string, err error) {
	r, err = http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway"+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	key = c.key.Load()
	if key == nil {
		text, err := os.ReadFile(filepath.Join(c.dir, keyName))
		if err != nil {
			return nil, nil, &goneError{fmt.Errorf("ask the gateway: %w", err)}
		}
		known := string(text)
		key = &known
		c.key.Store(key)
	}
	r.Header.Set(keyHeader, *key)
	return r, key, nil
}

// unanswered is the error of a request with the key that nobody answered.
func (c *Client) unanswered(ctx context.Context, key *string, err error) error {
	c.key.CompareAndSwap(key, nil) // the next daemon has another
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &goneError{fmt.Errorf("ask the gateway: %w", err)}
}

// unauthorized is the error of a request whose key is not the daemon's.
func (c *Client) unauthorized(key *string) error {
	c.key.CompareAndSwap(key, nil)
	return &goneError{errors.New("the gateway has another key: it has just been started")}
}

// dial connects to the control socket, whose path may be long.
func (c *Client) dial(ctx context.Context, _, _ string) (conn net.Conn, err error) {
	folder, err := openFolder(c.dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	err = withPath(folder, controlName, func(path string) error {
		conn, err = new(net.Dialer).DialContext(ctx, "unix", path)
		return err
	})
	return conn, err
}
