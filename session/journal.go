package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// entry is a change on its way to the store, with its events, which are
// numbered when it is written.
type entry struct {
	sessionID string
	change    Change
	events    []Event
	// refusable: whoever waits can be told that it failed. Anything else is
	// tried until it is written.
	refusable bool
	done      chan error // nil where nobody waits
	at        time.Time  // when it was handed over
}

// Append hands an event to the writer. It waits while too much waits to be
// stored, and not until the event is.
func (l *EventLog) Append(sessionID string, e Event) error {
	return l.enqueue(&entry{sessionID: sessionID, events: []Event{e}})
}

// Write hands a change and the events that tell it to the writer, and waits
// until they are stored together. A change that can't be made is the store's
// ErrEnded or ErrKeyTaken. With refusable, the store's own trouble is returned
// at once; without it, it is tried until it works or the log is closed.
func (l *EventLog) Write(sessionID string, c Change, refusable bool, events ...Event) error {
	return l.Begin(sessionID, c, refusable, events...)()
}

// Begin is Write that does not wait: what it returns does, and is called once.
func (l *EventLog) Begin(sessionID string, c Change, refusable bool, events ...Event) (wait func() error) {
	e := &entry{sessionID: sessionID, change: c, events: events, refusable: refusable, done: make(chan error, 1)}
	if err := l.enqueue(e); err != nil {
		return func() error { return err }
	}
	return func() error { return <-e.done }
}

func (l *EventLog) enqueue(e *entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) >= maxPending && !l.closed {
		l.room.Wait()
	}
	if l.closed {
		return ErrLogClosed
	}
	e.at = time.Now()
	l.pending = append(l.pending, e)
	switch {
	case e.done != nil:
		l.rouse()
	case len(l.pending) == 1:
		l.lazy.Reset(lazyTime)
	}
	return nil
}

// take returns what is to be written now: all of the sessions for which somebody
// waits, and what has lain long enough. l.mu is held.
func (l *EventLog) take() []*entry {
	if l.closed || len(l.pending) >= maxPending/2 {
		all := l.pending
		l.pending = nil
		return all
	}
	waited := map[string]bool{}
	for _, e := range l.pending {
		if e.done != nil {
			waited[e.sessionID] = true
		}
	}
	now := time.Now()
	var due, rest []*entry
	for _, e := range l.pending { // in order of time
		if waited[e.sessionID] || now.Sub(e.at) >= lazyTime {
			due = append(due, e)
		} else {
			rest = append(rest, e)
		}
	}
	if l.pending = rest; len(rest) > 0 {
		l.lazy.Reset(lazyTime - now.Sub(rest[0].at))
	}
	return due
}

// rouse lets the writer write.
func (l *EventLog) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Later is Write for a change that nobody need wait for: it is stored soon, and
// before what is handed over after it.
func (l *EventLog) Later(sessionID string, c Change, events ...Event) error {
	return l.enqueue(&entry{sessionID: sessionID, change: c, events: events})
}

// errBusy is returned for what is not worth waiting for.
var errBusy = errors.New("the database is behind with writing")

// offer is enqueue for what may be lost where the database can't be written, or
// is far behind.
func (l *EventLog) offer(e *entry) error {
	l.mu.Lock()
	busy := l.trouble != nil || len(l.pending) >= maxPending/2
	l.mu.Unlock()
	if busy {
		return errBusy
	}
	return l.enqueue(e)
}

// Trouble returns why the log can't write now, or nil.
func (l *EventLog) Trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trouble
}

// How long the writer waits before it tries again.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
	storeLimit = 30 * time.Second // for one try
)

// write is the writer: one transaction for all that has come since the last.
func (l *EventLog) write() {
	defer close(l.done)
	var unwritten []*entry
	retry := firstRetry
	for {
		l.mu.Lock()
		batch := slices.Concat(unwritten, l.take())
		closed := l.closed
		l.room.Broadcast()
		l.mu.Unlock()

		var err error
		unwritten, err = l.writeBatch(batch)
		l.mu.Lock()
		l.trouble = err
		l.mu.Unlock()
		switch {
		case closed:
			l.abandon(unwritten)
			return
		case err == nil:
			retry = firstRetry
			<-l.wake
		default:
			l.log.Error("the database can't be written; trying again", "waiting", len(unwritten), "error", err)
			select {
			case <-time.After(retry):
			case <-l.closing:
			}
			retry = min(2*retry, lastRetry)
		}
	}
}

// writeBatch writes a batch, and returns what is to be tried again, with the
// reason. Entries that can't be made, and refusable ones, are answered.
func (l *EventLog) writeBatch(batch []*entry) ([]*entry, error) {
	for len(batch) > 0 {
		changes, err := l.number(batch)
		if err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
			err = l.store.Apply(ctx, changes)
			cancel()
		}
		if err == nil {
			l.publish(batch, changes)
			return nil, nil
		}
		if bad, ok := errors.AsType[*ChangeError](err); ok {
			l.answer(batch[bad.Index], bad.Err)
			batch = append(batch[:bad.Index:bad.Index], batch[bad.Index+1:]...)
			continue
		}
		var kept []*entry
		for _, e := range batch {
			if e.refusable {
				l.answer(e, err)
			} else {
				kept = append(kept, e)
			}
		}
		if len(kept) == len(batch) || len(kept) == 0 {
			return kept, err
		}
		batch = kept // one of those refused may have been what was wrong
	}
	return nil, nil
}

// number gives every event of the batch its number and its JSON.
func (l *EventLog) number(batch []*entry) ([]Change, error) {
	last := map[string]int64{}
	changes := make([]Change, len(batch))
	for i, e := range batch {
		changes[i] = e.change
		if len(e.events) == 0 {
			continue
		}
		seq, ok := last[e.sessionID]
		if !ok {
			var err error
			if seq, err = l.lastSeq(e.sessionID); err != nil {
				return nil, fmt.Errorf("number events of session %s: %w", e.sessionID, err)
			}
		}
		for _, event := range e.events { // the last one tells the end, where there is one
			seq++
			event.Seq, event.SessionID = seq, e.sessionID
			if event.Time.IsZero() {
				event.Time = l.now().UTC()
			}
			data, err := json.Marshal(event)
			if err != nil {
				return nil, &ChangeError{Index: i, Err: fmt.Errorf("encode event %s: %w", event.Type, err)}
			}
			changes[i].Events = append(changes[i].Events, Record{
				SessionID: e.sessionID, Seq: seq, TaskID: event.TaskID, Step: event.step, Time: event.Time, Data: data,
			})
			if end := changes[i].End; end != nil && end.Delivery != nil {
				if changes[i].End, err = end.telling(event); err != nil {
					return nil, &ChangeError{Index: i, Err: err}
				}
			}
		}
		last[e.sessionID] = seq
	}
	return changes, nil
}

// publish shows what was stored to the readers, and answers who waits.
func (l *EventLog) publish(batch []*entry, changes []Change) {
	l.mu.Lock()
	moved := map[*stream]bool{}
	for _, c := range changes {
		for _, r := range c.Events {
			l.remember(r.SessionID, r.Seq)
			s, ok := l.streams[r.SessionID]
			if !ok {
				continue
			}
			s.last = r.Seq
			s.tail = append(s.tail, r)
			if len(s.tail) > 2*tailLength {
				s.tail = append([]Record(nil), s.tail[len(s.tail)-tailLength:]...)
			}
			moved[s] = true
		}
	}
	for s := range moved {
		close(s.moved)
		s.moved = make(chan struct{})
	}
	l.mu.Unlock()
	for _, e := range batch {
		l.answer(e, nil)
	}
}

func (l *EventLog) answer(e *entry, err error) {
	if e.done != nil {
		e.done <- err
	} else if err != nil {
		l.log.Error("an event could not be stored", "session", e.sessionID, "error", err)
	}
}

// abandon gives up what could not be written before the log closed.
func (l *EventLog) abandon(entries []*entry) {
	for _, e := range entries {
		l.answer(e, ErrLogClosed)
	}
}
