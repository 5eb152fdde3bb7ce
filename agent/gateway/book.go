package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	bookDelay = 100 * time.Millisecond // from a change to its writing
	bookShare = 10                     // of the time, one part at most goes into writing
	meterTime = 7 * 24 * time.Hour     // how long a meter is known that nobody reads or forgets
)

// book keeps a ledger in a file, so that a daemon which is killed loses at most
// the last tenth of a second of what calls cost, a little more of a long one.
type book struct {
	path   string
	ledger *ledger
	stop   chan struct{}
	done   sync.WaitGroup
	err    error // of the last writing
}

// page is the file's content.
type page struct {
	Meters map[string]*meter
	Purses map[string]*purse
}

// openBook reads what an earlier daemon has counted into the ledger, and keeps
// the ledger until close. After an error it begins anew.
func openBook(path string, l *ledger) (*book, error) {
	b := &book{path: path, ledger: l, stop: make(chan struct{})}
	err := b.read()
	l.mu.Lock()
	l.change = make(chan struct{}, 1)
	l.mu.Unlock()
	b.done.Go(b.keep)
	return b, err
}

func (b *book) read() error {
	data, err := os.ReadFile(b.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var p page
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", b.path, err)
	}
	b.ledger.mu.Lock()
	defer b.ledger.mu.Unlock()
	for name, m := range p.Meters {
		if m == nil || time.Since(m.Used) > meterTime {
			continue
		}
		if m.ByModel == nil {
			m.ByModel = map[string]ModelTotals{}
		}
		m.Active = 0 // the calls that were under way ended with the daemon
		b.ledger.meters[name] = m
	}
	for name, purse := range p.Purses {
		if purse != nil && purse.USD > 0 && time.Since(purse.Used) <= purseTime {
			b.ledger.purses[name] = purse
		}
	}
	return nil
}

func (b *book) keep() {
	for {
		var took time.Duration
		select {
		case <-b.stop:
			b.err = b.write()
			return
		case <-b.ledger.change:
			began := time.Now()
			b.err = b.write()
			took = time.Since(began)
		}
		select {
		case <-b.stop:
		case <-time.After(max(bookDelay, bookShare*took)):
		}
	}
}

// write makes the file whole, or leaves the one before.
func (b *book) write() error {
	b.ledger.mu.Lock()
	data, err := json.Marshal(page{b.ledger.meters, b.ledger.purses})
	b.ledger.mu.Unlock()
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.path+".new", data, 0o600); err != nil {
		return fmt.Errorf("write down what was counted: %w", err)
	}
	return os.Rename(b.path+".new", b.path)
}

// close writes the last state.
func (b *book) close() error {
	close(b.stop)
	b.done.Wait()
	return b.err
}
