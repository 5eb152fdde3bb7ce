package inside

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"claude-runner/backends/pipe"
)

// passedOn are the signals that are meant for the agent.
var passedOn = []os.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
}

// agent is the process that the helper is there for. All but do is for the
// goroutine that has started it, which is locked to its thread: where files and
// signals are confined, each thread of the helper is in a Landlock domain of its
// own, and the agent is in that of the thread that has started it. Only from
// there can it, and what it starts, be sent signals.
type agent struct {
	pid   int
	reaps bool        // its orphans come to this process
	calls chan func() // see do

	stopped []int // what rests, the agent first
	ending  bool  // it has been sent SIGTERM
	unswept bool  // that nothing is swept has been said
}

// start starts the agent with the helper's own streams and working folder, and
// passes signals on to it from then on. With o.Control the agent's input is a
// pipe, to which the helper's goes on.
func start(o Options, env []string) (*agent, error) {
	program, err := Find(o.Argv[0], os.Getenv("PATH"))
	if err != nil {
		return nil, err
	}
	// A signal that is caught here has its usual effect in the agent.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn...)
	a := &agent{reaps: becomeReaper(), calls: make(chan func())}
	in, stdin := &input{agent: a}, 0
	var from *pipe.End
	if o.Control {
		if from, err = pipe.Open(0, "the helper's input"); err == nil {
			stdin, in.to, err = newPipe()
		}
		if err != nil {
			return nil, fmt.Errorf("make the agent's input: %w", err)
		}
		closeToOthers()
	}
	a.pid, err = syscall.ForkExec(program, o.Argv, &syscall.ProcAttr{Env: env, Files: []uintptr{uintptr(stdin), 1, 2}, Sys: agentAttr()})
	if err != nil {
		code := ExitNotExecutable
		if errors.Is(err, syscall.ENOENT) { // of a script's interpreter, too
			code = ExitNotFound
		}
		return nil, failure{code, fmt.Errorf("start %s: %w", program, err)}
	}
	if o.Control {
		_ = syscall.Close(stdin)
		go in.carry(from)
	}
	go a.passOn(signals)
	return a, nil
}

// passOn runs until the process ends.
func (a *agent) passOn(signals <-chan os.Signal) {
	for s := range signals {
		a.do(func() {
			a.awake()
			a.ending = a.ending || s == syscall.SIGTERM
			_ = syscall.Kill(a.pid, s.(syscall.Signal)) // it may have ended
		})
	}
}

// do has the goroutine that waits for the agent call f, and returns when it has.
// Where the agent ends first, so does the process.
func (a *agent) do(f func()) {
	done := make(chan struct{})
	a.calls <- func() { f(); close(done) }
	<-done
}

// wait returns how the agent ended. Until then it does what others ask for.
func (a *agent) wait() syscall.WaitStatus {
	ended := make(chan syscall.WaitStatus)
	go func() { ended <- a.collect() }()
	for {
		select {
		case f := <-a.calls:
			f()
		case status := <-ended:
			return status
		}
	}
}

// collect returns how the agent ended, and collects orphans until then. What is
// left of them is not waited for.
func (a *agent) collect() syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == nil && pid == a.pid {
			return status
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return 0xff << 8 // ECHILD: somebody else has taken it, which nobody can
		}
	}
}

// endAs ends this process as the agent ended, so that whoever waits for it sees
// no difference. It returns only where the signal does not end it.
func endAs(status syscall.WaitStatus) error {
	if !status.Signaled() {
		syscall.Exit(status.ExitStatus())
	}
	s := status.Signal()
	if os.Getpid() != 1 { // whom the kernel spares
		dieOf(s)
	}
	return failure{128 + int(s), fmt.Errorf("the agent was ended by signal %d, %v", int(s), s)}
}

// Find looks a program up as a shell does.
func Find(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil // the system's word on it is as good
	}
	var closed string
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		p := dir + "/" + name
		info, err := os.Stat(p)
		switch {
		case err != nil || !info.Mode().IsRegular():
		case info.Mode()&0o111 != 0:
			return p, nil
		default:
			closed = p
		}
	}
	if closed != "" {
		return "", failure{ExitNotExecutable, fmt.Errorf("%s is not executable", closed)}
	}
	return "", failure{ExitNotFound, fmt.Errorf("program %q is in no folder of the search path %q", name, path)}
}
