package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"claude-runner/backends"
)

// keeperName is the keeper's first argument; its second is the state folder.
const keeperName = "claude-runner-sandbox"

// What the keeper inherits, by file descriptor.
const (
	orderFD   = 3 + iota // the read end of a pipe: an order
	answerFD             // the write end of a pipe: an answer
	stdinFD              // the main process's standard input
	controlFD            // controlFile, for reading and writing: it never ends
	lockFD               // the folder's lock
)

// order is what the runner wants of the keeper. It goes through a pipe, since
// arguments can be seen by everyone.
type order struct {
	Handle    backends.Handle
	Program   string
	Argv, Env []string
	Dir       string
	User      *backends.User // nil: as the runner
	OpenFiles int64
	CPUTime   time.Duration
	Timeout   time.Duration
}

// answer is what became of the order.
type answer struct {
	Handle  backends.Handle
	Error   string // why nothing was started; empty: it was
	Invalid bool   // the order is at fault
	Denied  bool   // the user lacks a right
}

// data is the form of Handle.Data.
type data struct {
	Keeper  int    `json:"keeper"`  // its process id
	Started string `json:"started"` // its start, see startTime
}

// dataVersion is Handle.Version.
const dataVersion = 1

// init turns this process into a keeper where it was started as one.
func init() {
	if len(os.Args) != 2 || os.Args[0] != keeperName {
		return
	}
	sortFiles()
	code := 0
	k := newKeeper(folder(os.Args[1]))
	if err := k.keep(os.NewFile(orderFD, "order"), os.NewFile(answerFD, "answer")); err != nil {
		fmt.Fprintln(os.Stderr, err) // which is the folder's logFile
		code = 1
	}
	syscall.Exit(code) // at once: os.Exit waits a second under the race detector
}

// keeper starts one sandbox and stays until nothing of it is left.
type keeper struct {
	folder folder
	id     string // the sandbox's
	stdout *stdoutLog
	stderr *stderrLog
	copies sync.WaitGroup

	pid     int                     // the main process
	ended   chan syscall.WaitStatus // how it ended
	gone    chan struct{}           // closed when no child is left
	stops   chan time.Duration      // commands to stop, with their grace
	signals chan os.Signal
}

func newKeeper(f folder) *keeper {
	return &keeper{
		folder: f, stdout: newStdoutLog(f), stderr: newStderrLog(f),
		ended: make(chan syscall.WaitStatus, 1), gone: make(chan struct{}),
		stops: make(chan time.Duration, 1), signals: make(chan os.Signal, 4),
	}
}

// keep is a keeper's life. Where the runner is gone before it has the answer,
// nobody else removes the folder.
func (k *keeper) keep(orders, answers *os.File) error {
	var o order
	if err := json.NewDecoder(orders).Decode(&o); err != nil {
		return errors.Join(fmt.Errorf("read the order: %w", err), k.folder.remove())
	}
	_ = orders.Close()
	k.id = o.Handle.ID
	if err := k.start(o); err != nil {
		var r refusal
		a := answer{Error: err.Error(), Invalid: errors.As(err, &r), Denied: errors.Is(err, unix.EACCES)}
		if err := json.NewEncoder(answers).Encode(a); err != nil {
			return errors.Join(fmt.Errorf("answer: %w", err), k.folder.remove())
		}
		return nil
	}
	err := k.announce(o.Handle, answers)
	if err != nil {
		_ = unix.Kill(k.pid, unix.SIGKILL)
	}
	exit := k.attend(o.Timeout)
	if err != nil {
		return errors.Join(err, k.folder.remove())
	}
	return k.settle(exit)
}

// start starts the main process. The limits are the keeper's own too: they are
// inherited, and it needs little of what they bound.
func (k *keeper) start(o order) error {
	// A signal that is caught here has its usual effect in the main process,
	// also where the runner was started with the signal ignored.
	signal.Notify(k.signals, unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT)
	unix.Umask(0o022)
	if err := becomeReaper(); err != nil {
		return err
	}
	if err := setLimits(o); err != nil {
		return err
	}
	if err := k.folder.reserve(resultFile); err != nil {
		return err
	}
	stdout, err := k.stdout.open()
	if err != nil {
		return err
	}
	stderr, err := k.stderr.open()
	if err != nil {
		return err
	}
	stdin := os.NewFile(stdinFD, "stdin")
	files := []*os.File{stdin, stdout, stderr}
	if o.User != nil {
		for _, f := range files { // so that /dev/stdout and its like can be opened
			if err := f.Chown(o.User.UID, o.User.GID); err != nil {
				return err
			}
		}
	}
	k.pid, err = syscall.ForkExec(o.Program, o.Argv, &syscall.ProcAttr{
		Dir: o.Dir, Env: o.Env, Files: []uintptr{stdin.Fd(), stdout.Fd(), stderr.Fd()}, Sys: mainAttr(o.User),
	})
	for _, f := range files {
		_ = f.Close()
	}
	if err != nil {
		err = fmt.Errorf("start %s in %s: %w", o.Program, o.Dir, err)
		if isUsersFault(err) {
			err = refusal{err}
		}
		return err
	}
	k.copies.Go(k.stdout.copy)
	k.copies.Go(k.stderr.copy)
	go k.reap()
	go k.obey(os.NewFile(controlFD, controlFile))
	return nil
}

// announce writes the record and tells the runner.
func (k *keeper) announce(h backends.Handle, answers *os.File) error {
	started, err := startTime(os.Getpid())
	if err != nil {
		return err
	}
	h.Version = dataVersion
	if h.Data, err = json.Marshal(data{Keeper: os.Getpid(), Started: started}); err != nil {
		return err
	}
	if err := k.folder.write(recordFile, h); err != nil {
		return err
	}
	if err := json.NewEncoder(answers).Encode(answer{Handle: h}); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return answers.Close()
}

// settle writes down how the sandbox ended.
func (k *keeper) settle(exit backends.Exit) error {
	k.stdout.end()
	k.stderr.end()
	k.copies.Wait()
	r := result{Exit: exit, Usage: childUsage()}
	if err := k.stdout.err; err != nil {
		r.Lost = err.Error()
	}
	return k.folder.write(resultFile, r)
}

// setLimits bounds this process and what it starts.
func setLimits(o order) error {
	limits := map[int]syscall.Rlimit{syscall.RLIMIT_CORE: {}}
	if o.OpenFiles > 0 {
		limits[syscall.RLIMIT_NOFILE] = syscall.Rlimit{Cur: uint64(o.OpenFiles), Max: uint64(o.OpenFiles)}
	}
	if o.CPUTime > 0 {
		seconds := uint64((o.CPUTime + time.Second - 1) / time.Second)
		limits[syscall.RLIMIT_CPU] = syscall.Rlimit{Cur: seconds, Max: seconds + 1} // SIGXCPU, and SIGKILL a second later
	}
	for which, want := range limits {
		var now syscall.Rlimit
		if err := syscall.Getrlimit(which, &now); err != nil {
			return fmt.Errorf("read a limit: %w", err)
		}
		want.Max = min(want.Max, now.Max) // only root may go above
		want.Cur = min(want.Cur, want.Max)
		if err := syscall.Setrlimit(which, &want); err != nil {
			return fmt.Errorf("set a limit: %w", err)
		}
	}
	return nil
}

// refusal is the system's no to what the order asks for.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// isUsersFault says whether a program could not be started for what it, its
// arguments or its folder are.
func isUsersFault(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.EACCES, unix.ENOTDIR, unix.ENOEXEC, unix.E2BIG, unix.ELOOP, unix.ENAMETOOLONG, unix.EISDIR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// sortFiles keeps the keeper's files from the main process, and closes what
// else was inherited: what the runner had from its parent may be a pipe at
// whose end somebody waits.
func sortFiles() {
	for fd := orderFD; fd <= lockFD; fd++ {
		unix.CloseOnExec(fd)
	}
	entries, _ := os.ReadDir("/dev/fd") // where that is not to be had, nothing is known
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= lockFD {
			continue
		}
		// This process's own files, Go's runtime's too, are closed on exec.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
}

// credential makes a process u's, in none of the runner's groups. Nil: as this
// process.
func credential(u *backends.User) *syscall.Credential {
	if u == nil {
		return nil
	}
	return &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
}
