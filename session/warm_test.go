package session_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"claude-runner/agent"
	"claude-runner/backends"
	"claude-runner/session"
)

// starts counts how tasks got their agents.
type starts struct {
	cold, warm, hot atomic.Int64
}

func (s *starts) TaskRefused(session.Code)                   {}
func (s *starts) TaskAdmitted(session.Task, session.Arrival) {}
func (s *starts) TaskStarted(session.Task)                   {}
func (s *starts) AgentStarting(session.Task)                 {}
func (s *starts) Event(session.Task, session.Event)          {}
func (s *starts) TaskEnded(session.Task)                     {}
func (s *starts) AgentStarted(_ session.Task, start session.Start) {
	map[session.Temperature]*atomic.Int64{
		session.StartCold: &s.cold, session.StartWarm: &s.warm, session.StartHot: &s.hot,
	}[start.Temperature].Add(1)
}

func (s *starts) want(t testing.TB, cold, warm, hot int64) {
	t.Helper()
	if s.cold.Load() != cold || s.warm.Load() != warm || s.hot.Load() != hot {
		t.Errorf("%d cold, %d warm and %d hot starts, want %d, %d and %d", s.cold.Load(), s.warm.Load(), s.hot.Load(), cold, warm, hot)
	}
}

// warmWorld keeps n agents of "shell" warm, and waits for them.
func warmWorld(t *testing.T, n int, change func(*session.Options, *agent.Profile)) (*world, *starts) {
	t.Helper()
	s := &starts{}
	w := newWorld(t, func(o *session.Options, p *agent.Profile) {
		o.Observers, p.KeepWarm = append(o.Observers, s), n
		if change != nil {
			change(o, p)
		}
	})
	w.ready(n)
	return w, s
}

func (w *world) pool() session.PoolState {
	for _, p := range w.PoolsOn("local") {
		if p.Agent == "shell" {
			return p
		}
	}
	return session.PoolState{}
}

func (w *world) ready(n int) {
	w.t.Helper()
	eventually(w.t, "warm agents are ready", func() bool { return w.pool().Ready >= n })
}

// warmFolders lists the folders of agents that are nobody's.
func (w *world) warmFolders() []string {
	all, err := filepath.Glob(filepath.Join(w.dir, "sessions", ".warm-*"))
	if err != nil {
		w.t.Fatal(err)
	}
	var folders []string
	for _, f := range all {
		if info, err := os.Lstat(f); err == nil && info.IsDir() {
			folders = append(folders, f)
		}
	}
	return folders
}

func TestWarm(t *testing.T) {
	w, s := warmWorld(t, 2, nil)
	if got := w.run("a", "echo $$ >mine; tools/hello.sh; ls"); got != "hello\nAGENTS.md\nCLAUDE.md\ndata\nmine\ntools" && !strings.HasPrefix(got, "hello\nAGENTS.md\n") {
		t.Errorf("the workspace shows %q", got)
	}
	if _, err := os.Stat(w.path("a", "mine")); err != nil {
		t.Errorf("the session's folder is not where its agent works: %v", err)
	}
	s.want(t, 0, 1, 0)
	w.run("b", "ls mine 2>/dev/null; echo over")
	s.want(t, 0, 2, 0)
	if got := w.run("a", "cat mine >/dev/null && echo kept"); got != "kept" {
		t.Errorf("the session's next task finds %q", got)
	}
	s.want(t, 1, 2, 0) // a session that has had a turn is not a warm agent's
	w.ready(2)         // their places are filled
}

func TestWarmWithEnvironment(t *testing.T) {
	w, s := warmWorld(t, 1, nil)
	run := func(id string, env map[string]string, message string) string {
		task, err := w.Submit(t.Context(), session.Submission{SessionID: id, Request: session.Request{Message: message, Env: env}})
		if err != nil {
			t.Fatal(err)
		}
		return w.wait(task).Result.Text
	}
	if got := run("a", map[string]string{"X": "of a"}, `echo "$X"`); got != "of a" {
		t.Errorf("the environment is %q", got)
	}
	s.want(t, 0, 1, 0)
	w.ready(1)
	if got := run("b", map[string]string{"START": "of b"}, `echo "$START $X"`); got != "of b " {
		t.Errorf("the environment is %q", got)
	}
	s.want(t, 1, 1, 0) // it needed a start, and the warm agent stays for another
	if got := run("c", nil, `echo "$X"`); got != "" {
		t.Errorf("another session's environment is %q", got)
	}
	s.want(t, 1, 2, 0)
}

func TestWarmFallsBackToCold(t *testing.T) {
	w, s := warmWorld(t, 1, nil)
	// A folder with files for the task is the session's already.
	mustWrite(t, w.path("given", "file"), "text\n")
	if got := w.run("given", "cat file"); got != "text" {
		t.Errorf("the file given beforehand says %q", got)
	}
	s.want(t, 1, 0, 0)
	w.ready(1)
	// A warm agent that has died is nobody's.
	for _, pid := range pidsIn(t, w.warmFolders()[0]) {
		if err := pid.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.run("a", "echo well"); got != "well" {
		t.Errorf("the answer is %q", got)
	}
}

func TestWarmPoolBacksOff(t *testing.T) {
	w := newWorld(t, func(_ *session.Options, p *agent.Profile) {
		p.KeepWarm, p.Backend = 2, []string{"broken"}
	})
	eventually(t, "the pool says why it is empty", func() bool {
		pools := w.PoolsOn("broken")
		return len(pools) == 2 && strings.Contains(pools[0].Error, "docker.sock") && pools[0].RetryAt.After(time.Now())
	})
	if pools := w.PoolsOn("local"); len(pools) != 0 {
		t.Errorf("a backend that the agent does not run on tells of %+v", pools)
	}
}

func TestWarmAgentsEnd(t *testing.T) {
	w, _ := warmWorld(t, 2, nil)
	old := w.warmFolders()
	profiles := w.Profiles()
	changed := profiles.ByName["shell"]
	changed.Env = map[string]string{"NEW": "1"}
	w.SetProfiles(session.Profiles{Default: "shell", ByName: map[string]session.Profile{"shell": changed}})
	eventually(t, "agents of the old profile are gone, and new ones ready", func() bool {
		for _, f := range old {
			if _, err := os.Stat(f); err == nil {
				return false
			}
		}
		return w.pool().Ready == 2
	})
	if got := w.run("a", "echo $NEW"); got != "1" {
		t.Errorf("the new profile's environment is %q", got)
	}
	w.close()
	w.Manager = nil
	if left := w.warmFolders(); len(left) > 0 {
		t.Errorf("folders are left: %v", left)
	}
}

func TestResetOfMovedFolder(t *testing.T) {
	w, _ := warmWorld(t, 1, func(_ *session.Options, p *agent.Profile) { p.IdleTimeout = time.Hour })
	w.run("a", "echo 1 >mine")
	links := func() (n int) {
		all, _ := filepath.Glob(filepath.Join(w.dir, "sessions", ".warm-*"))
		for _, f := range all {
			if to, err := os.Readlink(f); err == nil && to == "a" {
				n++
			}
		}
		return n
	}
	if links() != 1 {
		t.Error("the folder's old name leads nowhere")
	}
	if err := w.Reset(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if links() != 0 {
		t.Error("the old name is left behind")
	}
	if got := w.run("a", "ls mine 2>/dev/null; echo new"); got != "new" {
		t.Errorf("the workspace is not new: %q", got)
	}
}

func TestBootAhead(t *testing.T) {
	s := &starts{}
	w := newWorld(t, func(o *session.Options, p *agent.Profile) { o.Observers = append(o.Observers, s) })
	view := w.View(session.Caller{})
	for range 2 {
		r, err := view.Warm(t.Context(), "a", "", true)
		if want := (session.Readiness{SessionID: "a", Agent: "shell", Backend: "local", State: session.AgentReady}); err != nil || r != want {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if _, err := view.Session(t.Context(), "a"); err == nil {
		t.Error("the session is there before its first task")
	}
	if got := w.run("a", "echo $$"); got == "" {
		t.Error("no answer")
	}
	s.want(t, 0, 1, 0)
	// For a session with a turn it goes on with its memory.
	if r, err := view.Warm(t.Context(), "a", "", true); err != nil || r.State != session.AgentReady {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := w.run("a", "echo $RESUME"); got == "" {
		t.Error("the agent has no memory")
	}
	s.want(t, 0, 2, 0)
	// Another agent's task in a folder that was made ahead of it.
	if _, err := view.Warm(t.Context(), "b", "shell", true); err != nil {
		t.Fatal(err)
	}
	task, err := w.Submit(t.Context(), session.Submission{SessionID: "b", Agent: "other", Request: session.Request{Message: "pwd"}})
	if err != nil {
		t.Fatal(err)
	}
	if done := w.wait(task); done.State != session.TaskSucceeded {
		t.Errorf("%+v", done.Result)
	}
	for what, call := range map[string]func() (session.Readiness, error){
		"another agent": func() (session.Readiness, error) { return view.Warm(t.Context(), "a", "other", true) },
		"no agent":      func() (session.Readiness, error) { return view.Warm(t.Context(), "x", "nobody", true) },
		"no id":         func() (session.Readiness, error) { return view.Warm(t.Context(), "../x", "", true) },
	} {
		if r, err := call(); err == nil {
			t.Errorf("%s: %+v", what, r)
		}
	}
}

// Expect boots ahead only where the agent would stay.
func TestExpect(t *testing.T) {
	s := &starts{}
	w := newWorld(t, func(o *session.Options, p *agent.Profile) {
		o.Observers = append(o.Observers, s)
		p.IdleTimeout = time.Hour
	})
	w.View(session.Caller{}).Expect("a")
	eventually(t, "an agent waits", func() bool { return w.IdleAgents().Hot == 1 })
	w.run("a", "echo x")
	s.want(t, 0, 1, 0)
	w.run("a", "echo x")
	s.want(t, 0, 1, 1)
}

func TestIdleMemory(t *testing.T) {
	short := &atomic.Bool{}
	s := &starts{}
	w := newWorld(t, func(o *session.Options, p *agent.Profile) {
		o.Observers = append(o.Observers, s)
		o.Memory = 64 << 20
		o.HostMemory = func() (backends.HostMemory, error) {
			h := backends.HostMemory{Total: 1 << 30, Available: 1 << 29}
			if short.Load() {
				h.Available = 1 << 20
			}
			return h, nil
		}
		p.IdleTimeout = time.Hour
	})
	w.run("small", "echo x")
	w.run("large", `x=$(head -c 41943040 /dev/zero | tr '\0' x); y=$x$x; echo ${#y}`)
	eventually(t, "the longest idle agents make room", func() bool { return w.IdleAgents().Hot == 0 })
	w.run("small", "echo x")
	s.want(t, 3, 0, 0)
	eventually(t, "it is measured", func() bool { a := w.IdleAgents(); return a.Hot == 1 && a.Memory > 0 })
	short.Store(true)
	eventually(t, "the host's shortage ends it", func() bool { return w.IdleAgents().Hot == 0 })
	if got := w.run("small", "echo y"); got != "y" {
		t.Errorf("the session answers %q", got)
	}
}

// An agent that is done ends behind those that boot for a task, and no task gets it.
func TestDoneAgentEndsBehindBoots(t *testing.T) {
	s := &starts{}
	w := newWorld(t, func(o *session.Options, _ *agent.Profile) { o.Observers = append(o.Observers, s) })
	b, _ := w.opts.Backends.Backend("local")
	sandboxes := func() int {
		handles, err := b.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(handles)
	}
	boots := w.submit("boots", hold) // it says nothing meanwhile: its agent may have to boot still
	w.started("boots")

	first := w.run("a", "echo $$")
	eventually(t, "it stays", func() bool { return w.IdleAgents().Hot == 1 })
	if second := w.run("a", "echo $$"); second == first {
		t.Errorf("the session's next task has the agent %s, which was done", first)
	}
	w.run("b", "echo x")
	eventually(t, "both stay", func() bool { return w.IdleAgents().Hot == 2 })
	if n := sandboxes(); n != 3 {
		t.Errorf("there are %d sandboxes, want one for each session", n)
	}
	if err := w.Delete(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if n := sandboxes(); n != 2 {
		t.Errorf("there are %d sandboxes behind the end of a session, want 2", n)
	}

	w.letGo("boots")
	w.wait(boots)
	eventually(t, "none is left", func() bool { return sandboxes() == 0 })
	s.want(t, 4, 0, 0)
}

func TestAgentIsMeasuredWhereItMayHaveGrown(t *testing.T) {
	const second, hour = time.Second, time.Hour
	for name, c := range map[string]struct {
		waited, rested, measured time.Duration
		want                     bool
	}{
		"never before":                       {0, 0, 0, false},
		"it waits":                           {3 * second, 0, second, true},
		"some seconds later":                 {3 * second, 0, 3 * second, false},
		"it has waited for long":             {hour, 0, 10 * time.Minute, true},
		"for much longer":                    {hour, 0, 40 * time.Minute, false},
		"it has just answered":               {second / 2, 0, 3 * second, true},
		"it answers all the time":            {second / 2, 0, 11 * second, false},
		"it may have grown before its rest":  {hour, second, 2 * second, false},
		"measured at rest":                   {hour, 3 * second, 2 * second, true},
		"measured at rest, long ago":         {hour, hour, 2 * time.Minute, false},
		"put to rest when it had answered":   {second / 2, second / 4, second / 3, false},
		"at rest, and measured for the rest": {second / 2, second / 4, second / 5, true},
	} {
		if got := session.IsMeasured(c.waited, c.rested, c.measured); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAgentWakesWhereAMessageIsExpected(t *testing.T) {
	const rest = session.RestAfter
	synctest.Test(t, func(t *testing.T) {
		var told commands
		a := session.NewWaitingAgent(&told, false)
		time.Sleep(rest - time.Second)
		a.Expect() // which puts the rest off
		time.Sleep(rest - time.Second)
		told.want(t)
		time.Sleep(time.Second)
		told.want(t, backends.ControlRest)
		a.Expect()
		a.Expect()
		told.want(t, backends.ControlRest, backends.ControlWake)
		time.Sleep(rest)
		told.want(t, backends.ControlRest, backends.ControlWake, backends.ControlRest)
		a.Taken()
		a.Expect() // it has its message
		time.Sleep(2 * rest)
		told.want(t, backends.ControlRest, backends.ControlWake, backends.ControlRest)
	})
}

// An agent rests at once where others are in a hurry, and is awake a moment later
// to write down its memory, whatever else becomes of it.
func TestAgentNapsWhereOthersAreInAHurry(t *testing.T) {
	const nap = session.NapTime
	for name, c := range map[string]struct {
		done bool
		rest time.Duration
	}{
		"for the next message": {false, session.RestAfter},
		"to end":               {true, session.DoneRest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told commands
				a := session.NewWaitingAgent(&told, c.done)
				a.TakeNap()
				told.want(t, backends.ControlRest)
				time.Sleep(nap - time.Millisecond)
				told.want(t, backends.ControlRest)
				time.Sleep(time.Millisecond)
				told.want(t, backends.ControlRest, backends.ControlWake)
				time.Sleep(c.rest - time.Millisecond)
				told.want(t, backends.ControlRest, backends.ControlWake)
				time.Sleep(time.Millisecond)
				told.want(t, backends.ControlRest, backends.ControlWake, backends.ControlRest)
				a.Taken()
			})
		})
	}
	t.Run("and has a message", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var told commands
			a := session.NewWaitingAgent(&told, false)
			a.TakeNap()
			a.Taken() // the message itself wakes it
			time.Sleep(2 * session.RestAfter)
			told.want(t, backends.ControlRest)
		})
	})
}

// commands are those that a helper is told.
type commands struct {
	mu   sync.Mutex
	told []string
}

func (c *commands) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, string(p))
	return len(p), nil
}

// want is called in a bubble of synctest, which it waits for.
func (c *commands) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.told, want) {
		t.Errorf("the helper was told %q, want %q", c.told, want)
	}
}

func (c *commands) Close() error { return nil }

func TestHotAgentThatHasEnded(t *testing.T) {
	w := newWorld(t, func(_ *session.Options, p *agent.Profile) { p.IdleTimeout = time.Hour })
	w.run("a", "echo x")
	for _, pid := range pidsIn(t, filepath.Join(w.dir, "sessions", "a")) {
		if err := pid.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
	}
	if got := w.run("a", "echo y"); got != "y" {
		t.Errorf("the next task says %q", got)
	}
}

// pidsIn returns the processes whose working folder is below a folder.
func pidsIn(t testing.TB, dir string) (found []*os.Process) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil || len(links) == 0 {
		t.Skip("this system does not show its processes in /proc")
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, dir+"/") {
			var pid int
			for _, c := range strings.Split(l, "/")[2] {
				pid = 10*pid + int(c-'0')
			}
			p, err := os.FindProcess(pid)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		t.Fatalf("no process works in %s", dir)
	}
	return found
}
