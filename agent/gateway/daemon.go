package gateway

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"claude-runner/backends"
)

// ProcessName is what a daemon is started as, the first word of its command line;
// the second is its state folder.
const ProcessName = "claude-runner-gateway"

const (
	idleTime   = 30 * time.Second // without leases and clients, after which a daemon ends
	pollTime   = 20 * time.Second // of a question that waits
	maxLog     = 1 << 20
	maxControl = 16 << 20 // of a question
)

// init turns this process into a daemon where it was started as one.
func init() {
	if len(os.Args) != 2 || os.Args[0] != ProcessName {
		return
	}
	code := 0
	if err := runDaemon(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err) // which is the log
		code = 1
	}
	syscall.Exit(code) // at once: os.Exit waits a second under the race detector
}

// daemon is a Gateway in a process of its own.
type daemon struct {
	gateway  *Gateway
	log      *slog.Logger
	instance string
	key      string
	stop     chan struct{} // closed when it is to end
	stopOnce sync.Once
	streams  sync.WaitGroup

	mu     sync.Mutex
	asking int       // clients that wait for an answer
	asked  time.Time // when the last one had one
	ending bool
}

// runDaemon serves until nobody needs the daemon. Where another one serves the
// folder already, it does nothing.
func runDaemon(dir string) error {
	closeInherited()
	unix.Umask(0o077)
	debug.SetGCPercent(400) // little is kept, and much passes by
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	log := slog.New(slog.NewTextHandler(&boundedLog{path: filepath.Join(dir, logName)}, nil))
	if err := hide(); err != nil {
		log.Warn("this process's memory can be read by others of the same user", "error", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	gateway := New(Options{Log: log})
	book, err := openBook(filepath.Join(dir, ledgerName), gateway.ledger)
	if err != nil {
		log.Error("what was counted before is lost", "error", err)
	}
	key := randomID()
	if err := os.WriteFile(filepath.Join(dir, keyName), []byte(key), 0o600); err != nil {
		return fmt.Errorf("write the control socket's key: %w", err)
	}
	s, err := bind(filepath.Join(dir, controlName), backends.User{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		return fmt.Errorf("open the control socket in %s: %w", dir, err)
	}
	d := &daemon{
		gateway: gateway, log: log, instance: randomID(), key: key,
		stop: make(chan struct{}), asked: time.Now(),
	}
	err = d.serve(s, signals)
	return errors.Join(err, book.close())
}

func (d *daemon) serve(s *socket, signals <-chan os.Signal) error {
	d.log.Info("the gateway serves", "pid", os.Getpid())
	asking, hangUp := context.WithCancel(context.Background())
	defer hangUp()
	server := &http.Server{
		Handler: d.guard(d.routes()), ReadHeaderTimeout: headerWait,
		BaseContext: func(net.Listener) context.Context { return asking },
		ErrorLog:    slog.NewLogLogger(d.log.Handler(), slog.LevelWarn),
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(s.listener) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
			done = d.end(idleTime)
		case <-d.stop:
			done = true
		case sig := <-signals:
			d.log.Info("the gateway ends", "signal", sig)
			done = true
		}
	}
	d.mu.Lock()
	d.ending = true
	d.mu.Unlock()
	d.stopOnce.Do(func() { close(d.stop) }) // who watches asks anew, and starts another daemon
	// The name goes first: who finds it has a daemon that serves.
	err := s.close(true)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if server.Shutdown(ctx) != nil { // answers that are on their way
		_ = server.Close()
	}
	<-served
	hangUp()
	d.streams.Wait()
	return errors.Join(err, d.gateway.Shutdown(ctx))
}

// end reports whether the daemon is needed no more: it has no leases, and no
// client has asked for so long. From then on it answers no question.
func (d *daemon) end(quiet time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	leases, _ := d.gateway.Leases(context.Background())
	if d.asking > 0 || len(leases) > 0 || time.Since(d.asked) < quiet {
		return false
	}
	d.ending = true
	return true
}

// guard lets pass who knows the key.
func (d *daemon) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get(keyHeader)), []byte(d.key)) != 1 {
			http.Error(w, "the key is another", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (d *daemon) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, answer func(ctx context.Context, body []byte) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { d.answer(w, r, answer) })
	}
	ask := func(path string, answer func(ctx context.Context, q question) (any, error)) {
		handle(path, func(ctx context.Context, body []byte) (any, error) {
			var q question
			if err := json.Unmarshal(body, &q); err != nil {
				return nil, err
			}
			return answer(ctx, q)
		})
	}
	g := d.gateway
	handle(pathOpen, func(ctx context.Context, body []byte) (any, error) {
		var w wireLease
		if err := json.Unmarshal(body, &w); err != nil {
			return nil, errors.New("the lease cannot be read") // the error may quote a secret
		}
		return nil, g.Open(ctx, w.lease())
	})
	ask(pathPing, func(context.Context, question) (any, error) { return nil, nil })
	ask(pathRenew, func(ctx context.Context, q question) (any, error) { return nil, g.renew(ctx, q) })
	ask(pathClose, func(ctx context.Context, q question) (any, error) { return nil, g.Close(ctx, q.Lease) })
	ask(pathTotals, func(ctx context.Context, q question) (any, error) { return g.Totals(ctx, q.Meter) })
	ask(pathForget, func(ctx context.Context, q question) (any, error) { return nil, g.Forget(ctx, q.Meter) })
	ask(pathLeases, func(ctx context.Context, _ question) (any, error) { return g.Leases(ctx) })
	ask(pathRefusals, func(ctx context.Context, q question) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, pollTime)
		defer cancel()
		found, err := g.Refusals(ctx, q.Lease, q.After)
		if errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
		return found, err
	})
	ask(pathWatch, func(ctx context.Context, _ question) (any, error) {
		select { // its connection breaks where the daemon does
		case <-ctx.Done():
		case <-d.stop:
		case <-time.After(pollTime):
		}
		return nil, nil
	})
	mux.HandleFunc("POST "+pathStream, d.serveStream)
	mux.HandleFunc("POST "+pathShutdown, d.shutdown)
	return mux
}

// answer answers one question, unless the daemon is about to end.
func (d *daemon) answer(w http.ResponseWriter, r *http.Request, answer func(context.Context, []byte) (any, error)) {
	if !d.begin() {
		panic(http.ErrAbortHandler) // the asking side starts another daemon
	}
	defer d.done()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControl))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set(instanceHeader, d.instance)
	v, err := answer(r.Context(), body)
	respond(w, v, err)
}

// begin counts a question, until done. It reports false once the daemon is about
// to end.
func (d *daemon) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ending {
		d.asking++
	}
	return !d.ending
}

func (d *daemon) done() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asking--
	d.asked = time.Now()
}

// shutdown ends the daemon if it has no leases and nobody asks.
func (d *daemon) shutdown(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set(instanceHeader, d.instance)
	for until := time.Now().Add(time.Second); !d.end(0); time.Sleep(5 * time.Millisecond) {
		leases, _ := d.gateway.Leases(context.Background())
		if len(leases) > 0 || time.Now().After(until) { // the client's own questions may still be ending
			respond(w, nil, errInUse)
			return
		}
	}
	respond(w, nil, nil)
	d.stopOnce.Do(func() { close(d.stop) })
}

// closeInherited closes what the starter had inherited itself: somebody may
// wait for its end.
func closeInherited() {
	entries, _ := os.ReadDir("/dev/fd") // where that is not to be had, nothing is known
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		// This process's own files, Go's runtime's too, are closed on exec.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
}

// boundedLog writes to standard error, which is the file, and empties the file
// when it is full.
type boundedLog struct {
	path string
	mu   sync.Mutex
}

func (l *boundedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if info, err := os.Stderr.Stat(); err == nil && info.Size() > maxLog {
		_ = os.Stderr.Truncate(0) // it is open for appending
	}
	return os.Stderr.Write(p)
}
