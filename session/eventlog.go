package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// EventLog is the one writer of the store, and what its readers read: it
// numbers the events of every session, writes them in batches together with the
// changes that they tell of, and serves readers by cursor: what is stored after
// a number, then what comes, with no gap and no duplicate. An event is stored
// before a reader sees it. A slow reader holds up nobody: what it has not read
// waits in the store.
type EventLog struct {
	store Store
	log   *slog.Logger
	now   func() time.Time

	mu      sync.Mutex
	streams map[string]*stream
	numbers map[string]int64 // last numbers that were stored, of sessions that were written of late
	pending []*entry
	lazy    *time.Timer   // wakes the writer for entries that nobody waits for
	trouble error         // why the last try to write failed
	room    *sync.Cond    // pending has become shorter
	wake    chan struct{} // holds a token when pending is not empty
	closed  bool
	closing chan struct{} // closed with closed
	done    chan struct{} // closed when the writer has ended
}

const (
	maxPending = 4096 // entries that wait to be stored before Append waits
	tailLength = 512  // stored events of a session kept in memory for its readers
	pageLength = 256  // events read from the store at once
	maxNumbers = 4096 // sessions of EventLog.numbers

	// lazyTime is how long an event may lie until one of its session comes that
	// somebody waits for. To be stored with that, it costs next to nothing.
	lazyTime = 5 * time.Millisecond
)

// stream is what is in memory of one session that is being read.
type stream struct {
	last    int64         // the highest number stored
	tail    []Record      // the newest stored events, without a gap, up to last
	moved   chan struct{} // closed when last grows or the stream is dropped
	readers int
	dropped bool // the session was deleted
}

// OpenEventLog starts the log's writer.
func OpenEventLog(store Store, log *slog.Logger) *EventLog { return openEventLog(store, log, time.Now) }

func openEventLog(store Store, log *slog.Logger, now func() time.Time) *EventLog {
	l := &EventLog{
		store: store, log: log, now: now,
		streams: map[string]*stream{},
		numbers: map[string]int64{},
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	l.room = sync.NewCond(&l.mu)
	l.lazy = time.AfterFunc(time.Hour, l.rouse)
	l.lazy.Stop()
	go l.write()
	return l
}

// ErrLogClosed is returned once the log is closed.
var ErrLogClosed = errors.New("event log is closed")

// GapError is what a reader gets, once, where the events after its cursor are
// no longer kept. Next goes on with the one numbered First.
type GapError struct{ First int64 }

func (e *GapError) Error() string {
	return fmt.Sprintf("events before number %d are no longer kept", e.First)
}

// Drop forgets a deleted session: its readers end.
func (l *EventLog) Drop(sessionID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.numbers, sessionID)
	if s, ok := l.streams[sessionID]; ok {
		s.dropped = true
		close(s.moved)
		delete(l.streams, sessionID)
	}
}

// Close stores what is pending and ends the writer and every reader.
func (l *EventLog) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.closing)
		l.room.Broadcast()
		l.lazy.Stop()
		l.rouse()
	}
	l.mu.Unlock()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		close(s.moved)
	}
	l.streams = map[string]*stream{}
	return nil
}

// lastSeq returns the number of the session's last event.
func (l *EventLog) lastSeq(sessionID string) (int64, error) {
	l.mu.Lock()
	if s, ok := l.streams[sessionID]; ok && s.last != unknown {
		defer l.mu.Unlock()
		return s.last, nil
	}
	if last, ok := l.numbers[sessionID]; ok && last != unknown {
		defer l.mu.Unlock()
		return last, nil
	}
	if len(l.numbers) >= maxNumbers {
		clear(l.numbers)
	}
	l.numbers[sessionID] = unknown // Drop takes it out while the store is asked
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
	defer cancel()
	last, err := l.store.LastSeq(ctx, sessionID)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.remember(sessionID, last)
	}
	return last, err
}

// remember keeps the number of the session's last event, unless the session was
// dropped since the store was asked for it. l.mu is held.
func (l *EventLog) remember(sessionID string, last int64) {
	if _, ok := l.numbers[sessionID]; ok {
		l.numbers[sessionID] = last
	}
}

// Cursor reads a session's events in order. It is for one goroutine.
type Cursor struct {
	log       *EventLog
	sessionID string
	stream    *stream
	after     int64
}

// Live as Read's start means: only what comes from now on.
const Live int64 = -1

// Read returns a cursor behind the event numbered after; 0 begins with the
// first one stored, Live with the next one to come. Close it.
func (l *EventLog) Read(ctx context.Context, sessionID string, after int64) (*Cursor, error) {
	s, err := l.open(ctx, sessionID)
	if err != nil {
		return nil, fmt.Errorf("read events of session %s: %w", sessionID, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if after == Live {
		after = s.last
	}
	return &Cursor{log: l, sessionID: sessionID, stream: s, after: after}, nil
}

// open returns the session's stream with one more reader.
func (l *EventLog) open(ctx context.Context, sessionID string) (*stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrLogClosed
	}
	s, ok := l.streams[sessionID]
	if !ok {
		// What is written meanwhile is read from the store: the writer moves a
		// stream only while it is here, so it is put in before the store is asked.
		s = &stream{last: unknown, moved: make(chan struct{})}
		l.streams[sessionID] = s
	}
	s.readers++
	if s.last != unknown {
		return s, nil
	}
	l.mu.Unlock()
	last, err := l.store.LastSeq(ctx, sessionID)
	l.mu.Lock()
	if err != nil {
		s.readers--
		l.forgetLocked(sessionID, s)
		return nil, err
	}
	s.last = max(s.last, last)
	return s, nil
}

// unknown is the last number of a stream that was not looked up yet.
const unknown int64 = -1

// Next returns the next events, at least one, waiting for it if need be. It
// ends with ctx, with ErrLogClosed once all that is stored is read, or with
// ErrNotFound once the session is deleted.
func (c *Cursor) Next(ctx context.Context) ([]Record, error) {
	for {
		records, moved, err := c.ready(ctx)
		if err != nil || len(records) > 0 {
			return records, err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// ready returns what is there now, or a channel that closes when more is.
func (c *Cursor) ready(ctx context.Context) ([]Record, <-chan struct{}, error) {
	c.log.mu.Lock()
	s := c.stream
	switch {
	case s.dropped:
		c.log.mu.Unlock()
		return nil, nil, ErrNotFound
	case c.after >= s.last:
		moved, closed := s.moved, c.log.closed
		c.log.mu.Unlock()
		if closed && isClosed(c.log.done) {
			return nil, nil, ErrLogClosed
		}
		return nil, moved, nil
	case len(s.tail) > 0 && s.tail[0].Seq <= c.after+1:
		behind := s.tail[c.after+1-s.tail[0].Seq:]
		records := append([]Record(nil), behind[:min(len(behind), pageLength)]...)
		c.log.mu.Unlock()
		c.after = records[len(records)-1].Seq
		return records, nil, nil
	}
	last := s.last
	c.log.mu.Unlock()

	records, err := c.log.store.Events(ctx, c.sessionID, c.after, pageLength)
	if err != nil {
		return nil, nil, fmt.Errorf("read events of session %s: %w", c.sessionID, err)
	}
	first := last + 1
	if len(records) > 0 {
		first = records[0].Seq
	}
	if first > c.after+1 { // what was behind the cursor is no longer kept
		c.after = first - 1
		return nil, nil, &GapError{First: first}
	}
	c.after = records[len(records)-1].Seq
	return records, nil, nil
}

// After returns the number of the last event that was read.
func (c *Cursor) After() int64 { return c.after }

// Close lets go of the stream.
func (c *Cursor) Close() {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.stream.readers--
	c.log.forgetLocked(c.sessionID, c.stream)
}

// forgetLocked drops from memory what nobody reads. The writer asks the store
// for the number then.
func (l *EventLog) forgetLocked(sessionID string, s *stream) {
	if s.readers == 0 && l.streams[sessionID] == s {
		delete(l.streams, sessionID)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
