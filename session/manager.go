package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"claude-runner/agent"
	"claude-runner/backends"
)

// Options is what a Manager is made of.
type Options struct {
	Store    Store
	DataDir  string // absolute; sessions' folders are in DataDir/sessions
	Backends *backends.Registry
	Driver   agent.Driver
	Profiles Profiles
	// ModelAPIs returns where model calls go now: the first, or the next ones
	// while it refuses. Its error says what to set.
	ModelAPIs func() ([]agent.ModelAPI, error)
	Prices    map[string]agent.Price // by model

	// Gateway is the sandboxes' way out. Nil: agents call the model API
	// themselves, with its real credential, over the backend's own network.
	Gateway agent.Gateway
	// GatewayKey makes the tokens by which a sandbox's model calls are known.
	// It stays the same for a data folder.
	GatewayKey []byte
	// Helper puts what leads to the gateway before a sandbox's command, and
	// returns what must be mounted for it. It is needed with Gateway.
	Helper func(c backends.Capabilities, h HelperTask) (argv []string, mounts []backends.Mount, err error)

	User backends.User // who sandboxes are, where the runner is root
	Log  *slog.Logger
	// Observers are told what becomes of tasks.
	Observers []Observer

	Concurrency int // tasks that run at once
	QueueDepth  int // tasks that wait, over all sessions
	Boots       int // agents that boot at once
	// Memory bounds what all agents take, in bytes, that wait for a task: the
	// longest idle ones end first. 0: only the host's own memory does.
	Memory int64
	// HostMemory says how the host stands. Nil: backends.ReadHostMemory.
	HostMemory func() (backends.HostMemory, error)

	EventAge         time.Duration // how long events of ended tasks are kept; 0: for good
	EventsPerSession int           // how many events of a session are kept; 0: all

	PrivateWebhooks bool // tasks may name webhooks at private addresses

	// Now is the wall clock, which may jump: what is written down has its time.
	// What is measured or waited for does not. Nil: the system's.
	Now func() time.Time
}

// HelperTask is what a sandbox's helper is to do.
type HelperTask struct {
	Argv    []string // the agent's
	Socket  string   // the gateway's, as the sandbox finds it
	Folders []string // that the agent may write to, as the sandbox finds them
	Control bool     // it obeys commands within standard input: see backends.ControlRest
}

// Manager runs the tasks of every session: one at a time in each, in the order
// of their submission. It owns every goroutine that it starts; Close ends them.
// Its methods may be called from any goroutine.
type Manager struct {
	opts    Options
	log     *slog.Logger
	events  *EventLog
	folders folders
	health  *health

	admission *admission

	masks      masks
	bases      bases
	rehearsals rehearsals
	keys       *Keyring
	limiters   limiters

	streamSecret []byte

	undelivered chan struct{} // as Undelivered
	trash       chan struct{} // holds a token where a folder is to be deleted
	refill      chan struct{} // holds a token where a pool is to be filled
	measure     chan struct{} // holds a token where idle agents are to be measured

	root   context.Context // every task's; cancelled by Close
	cancel context.CancelCauseFunc
	tasks  sync.WaitGroup

	mu       sync.Mutex
	profiles Profiles
	live     map[string]*live // sessions at work
	pools    map[string]*pool // warm agents, by profile
	idleSize idleSize         // what agents that wait take
	jobs     map[string]*job  // tasks that have not ended, by id
	waiting  []*job           // queued tasks of all sessions, in the order of submission
	running  map[string]int   // tasks that run, by agent
	owners   map[string]int   // tasks that run, by owner
	total    int              // tasks that run
	closing  bool
	drained  chan struct{} // closed once closing and no task is left
}

var (
	errAborted  = errors.New("aborted")
	errTimedOut = errors.New("timed out")
)

// errClosing is said of what is not taken any more.
var errClosing = &Error{
	Code: CodeShuttingDown, RetryAfter: 5 * time.Second,
	Message: "the runner is shutting down; try again once it is back",
}

// errPostponed is said of a task that waits for the next Open.
var errPostponed = &Error{
	Code: CodeShuttingDown, RetryAfter: 5 * time.Second,
	Message: "the runner is shutting down; the task is kept and goes on when it is back",
}

// Open starts a Manager: it clears up what an earlier process left behind and
// queues the tasks that were waiting when it ended.
func Open(ctx context.Context, opts Options) (*Manager, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.HostMemory == nil {
		opts.HostMemory = backends.ReadHostMemory
	}
	m := &Manager{
		opts: opts, log: opts.Log, profiles: opts.Profiles,
		events:  openEventLog(opts.Store, opts.Log, opts.Now),
		folders: folders{root: opts.DataDir, user: opts.User},
		pools:   map[string]*pool{},
		live:    map[string]*live{},
		jobs:    map[string]*job{},
		running: map[string]int{},
		owners:  map[string]int{},
		drained: make(chan struct{}),

		admission:   newAdmission(opts.Boots),
		undelivered: make(chan struct{}, 1),
		refill:      make(chan struct{}, 1),
		measure:     make(chan struct{}, 1),
		trash:       make(chan struct{}, 1),
	}
	m.keys = newKeyring(opts.Store, func(u KeyUse) {
		// Not written down, it is no loss.
		_ = m.events.offer(&entry{change: Change{Use: &u}})
	})
	m.root, m.cancel = context.WithCancelCause(context.Background())
	m.health = newHealth(m.root)
	if err := m.folders.prepare(); err != nil {
		return nil, errors.Join(err, m.events.Close())
	}
	var err error
	if m.streamSecret, err = opts.Store.Secret(ctx, "stream"); err != nil {
		return nil, errors.Join(fmt.Errorf("read the secret of stream tokens: %w", err), m.Close(ctx))
	}
	if _, err := m.keys.Any(ctx); err != nil { // dispatch needs them at hand
		return nil, errors.Join(err, m.Close(ctx))
	}
	if err := m.restore(ctx); err != nil {
		return nil, errors.Join(err, m.Close(ctx))
	}
	m.tasks.Go(m.keepWarm)
	m.tasks.Go(m.watchMemory)
	m.tasks.Go(m.prune)
	m.tasks.Go(m.emptyTrash)
	return m, nil
}

// Close stops the Manager: no new task is taken or started, and running ones
// may finish until ctx ends. Those that have not are left to the next Open,
// which takes them over: their sandboxes go on. Waiting ones stay queued.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closing = true
	m.postpone()
	m.checkDrained()
	m.mu.Unlock()

	select {
	case <-m.drained:
	case <-ctx.Done():
	}
	m.cancel(agent.ErrDetached)
	m.closePools()
	m.closeHotAgents()
	m.awaitTasks()
	m.health.close()
	m.emptyTrashNow()
	return m.events.Close()
}

// awaitTasks waits until every goroutine of a task has ended. Where they wait
// for a database that can't be written, nothing more will be: the log is
// closed, and the next Open finds their tasks without an end.
func (m *Manager) awaitTasks() {
	ended := make(chan struct{})
	go func() {
		m.tasks.Wait()
		close(ended)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		if err := m.events.Trouble(); err != nil {
			m.log.Error("the ends of tasks could not be written; they are left to the next start", "error", err)
			if err := m.events.Close(); err != nil {
				m.log.Error("event log could not be closed", "error", err)
			}
			<-ended
			return
		}
	}
}

// pruneInterval is how often old events are looked for.
const pruneInterval = time.Hour

// prune removes old events now and then, until the Manager closes.
func (m *Manager) prune() {
	if m.opts.EventAge == 0 && m.opts.EventsPerSession == 0 {
		return
	}
	tick := time.NewTicker(pruneInterval)
	defer tick.Stop()
	for {
		before, keep := time.Time{}, int64(math.MaxInt64)
		if m.opts.EventAge > 0 {
			before = m.opts.Now().Add(-m.opts.EventAge)
		}
		if m.opts.EventsPerSession > 0 {
			keep = int64(m.opts.EventsPerSession)
		}
		switch n, err := m.opts.Store.PruneEvents(m.root, before, keep); {
		case err != nil && m.root.Err() == nil:
			m.log.Error("old events could not be removed", "error", err)
		case n > 0:
			m.log.Info("old events removed", "count", n)
		}
		select {
		case <-tick.C:
		case <-m.root.Done():
			return
		}
	}
}

// emptyTrash deletes the folders of sessions that were reset or deleted, until
// the Manager closes. The next Open goes on with it.
func (m *Manager) emptyTrash() {
	for {
		if err := m.folders.empty(m.root); err != nil && m.root.Err() == nil {
			m.log.Error("folders of old sessions could not be deleted; the next start tries again", "error", err)
		}
		select {
		case <-m.trash:
		case <-m.root.Done():
			return
		}
	}
}

// trashTime bounds how long a Manager that closes deletes folders: the next Open
// goes on with it.
const trashTime = 2 * time.Second

// emptyTrashNow deletes what agents have left that ended with the Manager.
func (m *Manager) emptyTrashNow() {
	ctx, cancel := context.WithTimeout(context.Background(), trashTime)
	defer cancel()
	if err := m.folders.empty(ctx); err != nil && ctx.Err() == nil {
		m.log.Error("folders of old sessions could not be deleted; the next start tries again", "error", err)
	}
}

// discard takes a session's folder away. It is deleted in the background.
func (m *Manager) discard(sessionID string) error {
	err := m.folders.remove(sessionID)
	select {
	case m.trash <- struct{}{}:
	default:
	}
	return err
}

// SetProfiles replaces the profiles. Tasks that run keep what they started with.
func (m *Manager) SetProfiles(p Profiles) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.profiles = p
	m.dispatch()
	m.kickPools()
}

// StreamSecret signs stream tokens. It is this data folder's own.
func (m *Manager) StreamSecret() []byte { return m.streamSecret }

// Keys are the API keys.
func (m *Manager) Keys() *Keyring { return m.keys }

// Events is the log of what happens in sessions.
func (m *Manager) Events() *EventLog { return m.events }
