package session

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// admission lets a few agents boot at a time. Of those that wait, the one goes
// next whose owner has the fewest that boot, and among those the one that came
// first. Agents that boot for nobody yet wait until no task waits for its agent,
// but not for good; and so do those that are done, to end.
type admission struct {
	limit int
	begin *semaphore.Weighted // turns of agents that stand ready

	mu      sync.Mutex
	booting int            // agents that boot
	owners  map[string]int // those that boot for a task, by owner
	turns   int            // agents that stand ready and begin a turn, or wait to
	queued  int            // of those, how many wait to
	hush    *time.Timer    // until it fires, no agent boots for nobody
	hushed  bool           // it runs
	quiet   time.Duration  // that it runs for
	waiting []*entrant
	done    []*leaver
	ending  int // of those, how many end now
}

// entrant is an agent that waits to boot.
type entrant struct {
	owner  string
	spare  bool      // for nobody yet
	urgent bool      // a spare one that has waited long enough
	in     chan bool // closed when it may boot
}

// leaver is an agent that is done and waits to end.
type leaver struct {
	end      func() // ends it, and returns when it has ended
	patience *time.Timer
}

// How long an agent waits while there is always a task that waits for its own:
// one that boots for nobody yet, and one that is done, to end. To end takes a good
// part of what booting does; what it holds until then is bounded with the memory
// of all that wait.
const (
	sparePatience = 10 * time.Second
	endPatience   = 30 * time.Second
)

func newAdmission(limit int) *admission {
	limit = max(1, limit)
	q := &admission{limit: limit, begin: semaphore.NewWeighted(int64(firstTurnWeight * limit)), owners: map[string]int{}, quiet: spareQuiet}
	q.hush = time.AfterFunc(time.Hour, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.hushed = false
		q.next()
	})
	q.hush.Stop()
	return q
}

// enter waits until an agent of owner's may boot, and is told how many go before
// it where it has to. leave is called once the agent has booted, or has not.
func (q *admission) enter(ctx context.Context, owner string, wait func(ahead int)) (leave func(), err error) {
	return q.admit(ctx, &entrant{owner: owner, in: make(chan bool)}, wait)
}

// enterSpare is enter for an agent that boots for nobody yet.
func (q *admission) enterSpare(ctx context.Context) (leave func(), err error) {
	e := &entrant{spare: true, in: make(chan bool)}
	patience := time.AfterFunc(sparePatience, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		e.urgent = true
		q.next()
	})
	defer patience.Stop()
	return q.admit(ctx, e, func(int) {})
}

func (q *admission) admit(ctx context.Context, e *entrant, wait func(ahead int)) (func(), error) {
	q.mu.Lock()
	ahead := 0
	for _, w := range q.waiting {
		if !w.spare {
			ahead++
		}
	}
	q.waiting = append(q.waiting, e)
	q.next()
	waits := slices.Contains(q.waiting, e)
	q.mu.Unlock()
	if waits {
		wait(ahead)
	}
	select {
	case <-e.in:
		return func() { q.leave(e) }, nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	if i := slices.Index(q.waiting, e); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		q.next() // others may have waited for this one alone
		q.mu.Unlock()
		return nil, context.Cause(ctx)
	}
	q.mu.Unlock()
	q.leave(e) // admitted at the same moment
	return nil, context.Cause(ctx)
}

func (q *admission) leave(e *entrant) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.booting--
	if !e.spare {
		if q.owners[e.owner]--; q.owners[e.owner] == 0 {
			delete(q.owners, e.owner)
		}
	}
	q.next()
}

// spareQuiet is how long none of the agents that stand ready was taken before
// another boots in its place: tasks that come all at once are not to wait for it.
const spareQuiet = 300 * time.Millisecond

// taken says that an agent was taken that stood ready.
func (q *admission) taken() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.hushed = true
	q.hush.Reset(q.quiet)
}

// How long an agent that stands ready keeps its place among those that begin a
// turn: at most turnPatience without having asked its model; in its first turn,
// turnAsking beyond that, since it has still to do then.
const (
	turnPatience = 250 * time.Millisecond
	turnAsking   = 60 * time.Millisecond
)

// beginning is an agent that begins a turn.
type beginning struct {
	asked func() // it has asked its model
	end   func() // its turn is over
}

// firstTurnWeight is how many later turns may begin in place of an agent's first.
const firstTurnWeight = 4

// beginTurn waits until an agent that stands ready may be given its message, in
// order of arrival: as many begin their first turn at a time as may boot, since
// all at once would each keep the others waiting.
func (q *admission) beginTurn(ctx context.Context, first bool) (*beginning, error) {
	weight := int64(1)
	if first {
		weight = firstTurnWeight
	}
	if err := q.awaitTurn(ctx, weight); err != nil {
		return nil, err
	}
	leave := sync.OnceFunc(func() { q.begin.Release(weight) })
	patience := time.AfterFunc(turnPatience, leave)
	end := sync.OnceFunc(func() {
		patience.Stop()
		leave()
		q.mu.Lock()
		defer q.mu.Unlock()
		q.turns--
		q.next()
	})
	asked := end
	if first {
		asked = sync.OnceFunc(func() { time.AfterFunc(turnAsking, end) })
	}
	return &beginning{asked: asked, end: end}, nil
}

// awaitTurn waits until as much is free as an agent takes that begins a turn.
func (q *admission) awaitTurn(ctx context.Context, weight int64) error {
	q.mu.Lock()
	q.turns++
	q.queued++
	q.mu.Unlock()
	err := q.begin.Acquire(ctx, weight)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queued--
	if err != nil {
		q.turns--
		q.next()
		return context.Cause(ctx)
	}
	return nil
}

// crowded reports whether agents wait to begin their turn.
func (q *admission) crowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queued > 0
}

// isCalm reports whether no task's agent boots or waits to, and none that stood
// ready was taken a moment ago.
func (q *admission) isCalm() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.calm()
}

// calm is isCalm where q.mu is held.
func (q *admission) calm() bool {
	return len(q.owners) == 0 && !q.hushed && !slices.ContainsFunc(q.waiting, func(e *entrant) bool { return !e.spare })
}

// whenCalm has end called when isCalm, or a while later. It is to end an agent
// that is done, and to return when that has ended.
func (q *admission) whenCalm(end func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := &leaver{end: end}
	l.patience = time.AfterFunc(endPatience, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if i := slices.Index(q.done, l); i >= 0 {
			q.end(i)
		}
	})
	q.done = append(q.done, l)
	q.next()
}

// end has an agent end that is done. q.mu is held.
func (q *admission) end(i int) {
	l := q.done[i]
	q.done = slices.Delete(q.done, i, i+1)
	l.patience.Stop()
	q.ending++
	go func() {
		l.end()
		q.mu.Lock()
		defer q.mu.Unlock()
		q.ending--
		q.next()
	}()
}

// next lets in as many as may boot, and has as many end at a time. q.mu is held.
func (q *admission) next() {
	q.boot()
	for len(q.done) > 0 && q.ending < q.limit && q.calm() {
		q.end(0)
	}
}

// boot lets in as many as may boot. q.mu is held.
func (q *admission) boot() {
	for q.booting < q.limit {
		i := q.first()
		if i < 0 {
			return
		}
		e := q.waiting[i]
		q.waiting = slices.Delete(q.waiting, i, i+1)
		q.booting++
		if !e.spare {
			q.owners[e.owner]++
		}
		close(e.in)
	}
}

// first returns whose turn it is; -1: nobody's.
func (q *admission) first() int {
	best := -1
	for i, e := range q.waiting {
		if !e.spare && (best < 0 || q.owners[e.owner] < q.owners[q.waiting[best].owner]) {
			best = i
		}
	}
	if best >= 0 {
		return best
	}
	calm := q.turns == 0 && q.calm()
	return slices.IndexFunc(q.waiting, func(e *entrant) bool { return calm || e.urgent })
}

// Boots is how many agents boot, and how many wait to.
type Boots struct{ Booting, Waiting int }

// Boots returns how many agents boot now.
func (m *Manager) Boots() Boots {
	q := m.admission
	q.mu.Lock()
	defer q.mu.Unlock()
	return Boots{Booting: q.booting, Waiting: len(q.waiting)}
}
