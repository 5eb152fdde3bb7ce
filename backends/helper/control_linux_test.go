package helper_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"claude-runner/backends"
	"claude-runner/backends/helper"
)

// TestControlSweep leaves processes behind in many ways. What a sweep ends is
// gone before the line behind it arrives.
func TestControlSweep(t *testing.T) {
	for name, leave := range map[string]string{
		"in the background":                    `sleep 600 >&2 &`,
		"in a session of its own":              `setsid nohup sleep 600 >&2 &`,
		"by a second fork":                     `(setsid sh -c 'sleep 600 >&2 & sleep 600 >&2 &') &`,
		"with children":                        `sh -c 'sleep 600 & sleep 600 & wait' >&2 &`,
		"stopped":                              `sh -c 'kill -STOP $$; sleep 600' >&2 &`,
		"deaf to signals":                      `sh -c 'trap "" TERM HUP INT; sleep 600' >&2 &`,
		"each starting others":                 `sh -c 'n=0; while [ $n -lt 500 ]; do sleep 600 & n=$((n+1)); done' >&2 &`,
		"each starting another before it ends": `H='N=$((N-1)); [ $N -gt 0 ] || exit; sh -c "$H" & exit' N=10000 setsid sh -c 'export H N; sh -c "$H"' >&2 &`,
	} {
		t.Run(name, func(t *testing.T) {
			mark := fmt.Sprintf("HELPERTEST=%d", time.Now().UnixNano())
			t.Cleanup(func() {
				for _, pid := range marked(mark) {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			})
			c, _ := converse(t, "sleep 600 >&2 & own=$!; echo $own; "+mark+` sh -c "$1"; echo ready; while read -r x; do echo $x; done; kill $own`, leave)
			own := c.number()
			c.expect("ready")
			eventually(t, "what is left behind", func() bool { return len(marked(mark)) > 0 })
			c.say(backends.ControlSweep + "line\n")
			c.expect("line")
			if left := marked(mark); len(left) > 0 {
				t.Errorf("processes %d are left", left)
			}
			if stateOf(own) == "" {
				t.Error("a child of the agent is swept")
			}
			c.end(0, "")
		})
	}
}

func TestControlRest(t *testing.T) {
	const echo = "while read -r x; do echo $x; done"
	t.Run("no processor time is used, until the next line", func(t *testing.T) {
		c, agent := converse(t, "(while :; do :; done) & echo $!; "+echo+"; kill $!")
		busy := c.number()
		for range 3 {
			c.say(backends.ControlRest)
			eventually(t, "rest", func() bool { return stateOf(agent) == "T" && stateOf(busy) == "T" })
			before := []string{ticks(agent), ticks(busy)}
			time.Sleep(100 * time.Millisecond) // what is measured, and not waited for
			if after := []string{ticks(agent), ticks(busy)}; !slices.Equal(before, after) {
				t.Errorf("processor time moves from %q to %q", before, after)
			}
			c.say("awake\n")
			c.expect("awake")
			eventually(t, "work", func() bool { return ticks(busy) != before[1] })
		}
		c.end(0, "")
	})
	t.Run("a command wakes, as often as it comes", func(t *testing.T) {
		c, agent := converse(t, echo)
		for range 3 {
			c.say(backends.ControlWake + backends.ControlRest)
			eventually(t, "rest", func() bool { return stateOf(agent) == "T" })
			c.say(backends.ControlWake + backends.ControlWake)
			eventually(t, "it wakes", func() bool { return stateOf(agent) != "T" })
		}
		c.say("awake\n")
		c.expect("awake")
		c.end(0, "")
	})
	t.Run("an agent that is starting programs halts, too", func(t *testing.T) {
		// Between vfork(2) and execve(2) a shell goes through the search path.
		c, agent := converse(t, "PATH=$(printf '/none:%.0s' $(seq 20000))$PATH; trap exit TERM; echo ready; while :; do sleep 0; done")
		c.expect("ready")
		for range 50 {
			c.say(backends.ControlRest)
			eventually(t, "rest", func() bool { return stateOf(agent) == "T" })
			c.say(backends.ControlWake)
			eventually(t, "it wakes", func() bool { return stateOf(agent) != "T" })
		}
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.end(0, "")
	})
	t.Run("a signal wakes", func(t *testing.T) {
		c, agent := converse(t, "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.01; done")
		c.expect("ready")
		c.say(backends.ControlRest)
		eventually(t, "rest", func() bool { return stateOf(agent) == "T" })
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.expect("got")
		c.end(7, "")
	})
	t.Run("the end of stdin wakes", func(t *testing.T) {
		c, agent := converse(t, echo+"; exit 3")
		c.say(backends.ControlRest)
		eventually(t, "rest", func() bool { return stateOf(agent) == "T" })
		c.end(3, "")
	})
	t.Run("an agent that was sent SIGTERM does not rest", func(t *testing.T) {
		c, agent := converse(t, "trap 'echo got' TERM; trap 'exit 0' HUP; echo ready; while :; do sleep 0.01; done")
		c.expect("ready")
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.expect("got")
		c.say(backends.ControlRest + "\x00none\n")
		eventually(t, "what is said behind the command", func() bool { return c.errs.Len() > 0 })
		if stateOf(agent) == "T" {
			t.Error("it is at rest")
		}
		if err := c.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		c.end(0, "unknown command")
	})
	t.Run("what the agent had stopped stays so", func(t *testing.T) {
		c, agent := converse(t, "sleep 600 >&2 & kill -STOP $!; echo $!; "+echo+"; kill -KILL $!")
		child := c.number()
		eventually(t, "the child's stop", func() bool { return stateOf(child) == "T" })
		c.say(backends.ControlRest)
		eventually(t, "rest", func() bool { return stateOf(agent) == "T" })
		c.say("awake\n")
		c.expect("awake")
		if got := stateOf(child); got != "T" {
			t.Errorf("the child's state is %q", got)
		}
		c.end(0, "")
	})
	t.Run("a sweep does not wake", func(t *testing.T) {
		mark := fmt.Sprintf("HELPERTEST=%d", time.Now().UnixNano())
		c, agent := converse(t, mark+" sh -c 'sleep 600 >&2 &'; echo ready; "+echo)
		c.expect("ready")
		c.say(backends.ControlRest + backends.ControlSweep)
		eventually(t, "the sweep's end", func() bool { return len(marked(mark)) == 0 })
		if got := stateOf(agent); got != "T" {
			t.Errorf("the agent's state is %q", got)
		}
		c.say("awake\n")
		c.expect("awake")
		c.end(0, "")
	})
}

// TestControlConfined has Landlock, which lets a thread send signals only where
// it itself is confined.
func TestControlConfined(t *testing.T) {
	needLandlock(t)
	mark := fmt.Sprintf("HELPERTEST=%d", time.Now().UnixNano())
	o := helper.Options{Control: true, Confine: &helper.Confinement{ReadWrite: []string{t.TempDir()}}}
	c, agent := converseWith(t, o, "while read -r x; do "+mark+" sh -c 'sleep 600 >&2 &'; echo $x; done")
	for range 10 {
		c.say(backends.ControlRest)
		eventually(t, "rest", func() bool { return stateOf(agent) == "T" })
		c.say("line\n")
		c.expect("line")
		c.say(backends.ControlSweep)
		eventually(t, "a sweep", func() bool { return len(marked(mark)) == 0 })
	}
	c.end(0, "")
	for range 5 {
		c, _ := converseWith(t, o, "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.01; done")
		c.expect("ready")
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.expect("got")
		c.end(7, "")
	}
}

// The agent, which is the helper's own user, can not take commands from it.
func TestControlIsClosedToTheAgent(t *testing.T) {
	script := "head -c 1 </proc/$PPID/fd/0; cat /proc/$PPID/environ"
	cmd := command(t, control, script)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(nobody.UID), Gid: uint32(nobody.GID)}}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if out, errs, _ := run(t, cmd); out != "" || strings.Count(strings.ToLower(errs), "denied") != 2 {
		t.Errorf("stdout %q, stderr %q", clip(out), errs)
	}
}

// conversation is a helper with Control, in front of a script that is spoken to.
type conversation struct {
	*testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs *output
}

// converse starts a script that says its process id first.
func converse(t *testing.T, script string, args ...string) (c conversation, agent int) {
	t.Helper()
	return converseWith(t, control, script, args...)
}

func converseWith(t *testing.T, o helper.Options, script string, args ...string) (c conversation, agent int) {
	t.Helper()
	argv := append([]string{"sh", "-c", "echo $$; " + script, "sh"}, args...)
	c = conversation{T: t, cmd: commandOf(t, o, argv...), errs: &output{}}
	stderr, err := c.cmd.StderrPipe() // a file, lest Wait waits for all who have it
	if err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	c.out = begin(t, c.cmd)
	read := make(chan struct{})
	go func() { defer close(read); _, _ = io.Copy(c.errs, stderr) }()
	t.Cleanup(func() { _ = stderr.Close(); <-read })
	return c, c.number()
}

func (c conversation) say(text string) {
	c.Helper()
	if _, err := io.WriteString(c.in, text); err != nil {
		c.Fatal(err)
	}
}

func (c conversation) expect(want string) {
	c.Helper()
	expectLine(c, c.out, want)
}

// number reads a line that is one.
func (c conversation) number() int {
	c.Helper()
	n, err := strconv.Atoi(readLine(c, c.out))
	if err != nil {
		c.Fatal(err)
	}
	return n
}

// end closes stdin and waits for the agent, which has said errs on stderr.
func (c conversation) end(code int, errs string) {
	c.Helper()
	_ = c.in.Close()
	_ = c.cmd.Wait()
	if got := c.cmd.ProcessState.ExitCode(); got != code {
		c.Errorf("the helper ends with %v, want code %d", c.cmd.ProcessState, code)
	}
	if got := c.errs.String(); errs == "" && got != "" || !strings.Contains(got, errs) {
		c.Errorf("stderr %q, want %q", got, errs)
	}
}

// output is what has been written by now.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) Len() int { return len(o.String()) }

// marked lists the processes whose environment has a variable.
func marked(variable string) []int {
	var out []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		environ, _ := os.ReadFile(dir + "/environ") // it may have ended
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && bytes.Contains(environ, []byte(variable)) {
			out = append(out, pid)
		}
	}
	return out
}
