package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"claude-runner/agent/scripted"
	"claude-runner/backends"
)

// warmCases are what holds where agents stand booted, whatever the backend. They
// run one after the other: each counts how its tasks got their agents.
var warmCases = []struct {
	name string
	run  func(*testing.T, *deployment)
}{
	{"new session", testWarmSession},
	{"env of the task", testWarmEnv},
	{"sessions of one pool are isolated", testWarmIsolation},
	{"ahead of a message", testBootAhead},
	{"stream that opens", testStreamBootsAhead},
	{"leftovers of a turn", testLeftovers},
	{"cost of each turn", testHotCost},
	{"idle agents rest", testIdleAgentsRest},
	{"abort", testAbortWarm},
}

// TestWarmAgents runs tasks with agents that have booted before them: the real
// CLI in sandboxes of each backend.
func TestWarmAgents(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			model, url := startModel(t, "testdata/script.yaml", scripted.Options{KeepRequests: 5000})
			p := startProgram(t, loadConfig(t, "testdata/warm.yaml", variables(t, kind.Name, url)))
			requireAgent(t, p, kind.Name)
			d := &deployment{program: p, kind: kind.Name, model: model}
			b, _ := p.backends.Backend(kind.Name)
			d.capabilities = b.Capabilities()
			t.Cleanup(func() {
				d.checkNothingLeft(t)
				d.checkLogs(t)
				if left, err := b.List(t.Context()); err == nil && len(left) > 0 {
					t.Errorf("sandboxes are left: %+v", left)
				}
			})
			for _, c := range warmCases {
				t.Run(c.name, func(t *testing.T) { c.run(t, d) })
			}
		})
	}
}

// stands waits until the pool is full.
func (d *deployment) stands(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "two agents stand booted", func() bool {
		var all []struct {
			Name string
			Warm []struct{ Ready int }
		}
		d.get(t, "/backends", &all)
		for _, b := range all {
			if b.Name == d.kind && len(b.Warm) > 0 {
				return b.Warm[0].Ready == 2
			}
		}
		return false
	})
}

var startCount = regexp.MustCompile(`(?m)^claude_runner_start_duration_seconds_count\{.*temperature="(\w+)"\} (\d+)$`)

// starts counts how tasks have got their agents so far.
func (d *deployment) starts(t *testing.T) map[string]int {
	t.Helper()
	r, err := d.do(t.Context(), http.MethodGet, "/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, m := range startCount.FindAllStringSubmatch(r.body, -1) {
		n := 0
		if _, err := fmt.Sscan(m[2], &n); err != nil {
			t.Fatal(err)
		}
		counts[m[1]] += n
	}
	return counts
}

// startsOf holds how the tasks of do get their agents.
func (d *deployment) startsOf(t *testing.T, do func(), want map[string]int) {
	t.Helper()
	before := d.starts(t)
	do()
	after := d.starts(t)
	for _, temperature := range []string{"cold", "warm", "hot"} {
		if n := after[temperature] - before[temperature]; n != want[temperature] {
			t.Errorf("%d %s starts, want %d", n, temperature, want[temperature])
		}
	}
}

func testWarmSession(t *testing.T, d *deployment) {
	d.stands(t)
	if n := d.model.Served().Calls; n != 1 { // by requireAgent: this is the first case
		t.Errorf("the model was asked %d times, want once: agents that rehearse ask nobody", n)
	}
	d.startsOf(t, func() {
		c := d.chat(t, "")
		first := c.ask("run: echo $PPID; echo $FROM_PROFILE; echo mine > file")
		second := c.ask("run: echo $PPID; echo $FROM_PROFILE; cat file >/dev/null")
		if first.Text != second.Text || !strings.HasSuffix(first.Text, "a profile's variable") || !second.Resumed {
			t.Errorf("the first turn says %q, the second %q", first.Text, second.Text)
		}
		if text, err := os.ReadFile(d.workspace(c.id, "file")); string(text) != "mine\n" {
			t.Errorf("the workspace's file holds %q, %v", text, err)
		}
		// Its memory outlives the process.
		if r := c.with("env", map[string]string{"A": "b"}).ask("run: cat file; echo $A"); r.Text != "mine\nb" || !r.Resumed {
			t.Errorf("a new process of the session says %q", r.Text)
		}
		c.call(http.MethodPost, "/session/ID/reset")
		if r := c.ask("run: cat file 2>/dev/null; echo new"); r.Text != "new" {
			t.Errorf("after a reset the tool says %q", r.Text)
		}
		c.call(http.MethodDelete, "/session/ID")
	}, map[string]int{"warm": 2, "hot": 1, "cold": 1})
}

func testWarmEnv(t *testing.T, d *deployment) {
	d.stands(t)
	const show = `run: echo "$COLOUR $FROM_PROFILE"; sh -c 'env' | grep -c ^COLOUR=`
	d.startsOf(t, func() {
		c := d.chat(t, "").with("env", map[string]string{"COLOUR": "it's green", "FROM_PROFILE": "mine"})
		for range 2 {
			if r := c.ask(show); r.Text != "it's green mine\n1" {
				t.Errorf("the tool says %q", r.Text)
			}
		}
		if r := d.chat(t, "").other("plain").ask(`run: echo "[$COLOUR]"`); r.Text != "[]" {
			t.Errorf("another session says %q", r.Text)
		}
	}, map[string]int{"warm": 2, "hot": 1})
}

// testWarmIsolation has two sessions of one pool look for each other.
func testWarmIsolation(t *testing.T, d *deployment) {
	d.stands(t)
	one, other := d.chat(t, "").other("one"), d.chat(t, "").other("other")
	one.ask("run: echo what-only-one-knows > secret; echo x > ~/secret; echo x > /tmp/secret-of-one")
	held := one.held("in-the-session-of-one")
	r := other.ask(`run: ls; ls ~; cat secret ~/secret 2>/dev/null; for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline; done 2>/dev/null | grep -c 'in-the-[s]ession'; ls /tmp`)
	if d.capabilities.Isolation != backends.IsolationNone && (strings.Contains(r.Text, "secret") || !strings.Contains(r.Text, "\n0\n")) {
		t.Errorf("the other session sees %q", r.Text)
	}
	if strings.Contains(r.Text, "what-only-one-knows") {
		t.Errorf("the other session's workspace has %q", r.Text)
	}
	one.letGo()
	<-held
}

func testBootAhead(t *testing.T, d *deployment) {
	d.stands(t)
	d.startsOf(t, func() {
		c := d.chat(t, "")
		for range 2 {
			if r := c.call(http.MethodPost, "/session/ID/warm"); r.status != http.StatusOK || !strings.Contains(r.body, `"ready"`) {
				t.Fatalf("%d %s", r.status, r.body)
			}
		}
		if r := c.ask("run: echo here"); r.Text != "here" {
			t.Errorf("the tool says %q", r.Text)
		}
	}, map[string]int{"warm": 1})
}

func testStreamBootsAhead(t *testing.T, d *deployment) {
	d.stands(t)
	d.startsOf(t, func() {
		c := d.chat(t, "")
		c.stream("")
		eventually(t, time.Minute, "the session's agent is ready", func() bool { return d.manager.IdleAgents().Hot > 0 })
		c.ask("run: echo here")
		c.ask("run: echo here")
	}, map[string]int{"warm": 1, "hot": 1})
}

// testLeftovers has a turn leave processes behind, which the next one must not
// find.
func testLeftovers(t *testing.T, d *deployment) {
	c, seconds := d.chat(t, ""), unique()
	c.ask(fmt.Sprintf("run: (setsid nohup sleep %[1]s >/dev/null 2>&1 &); (trap '' TERM HUP; sleep %[1]s & ) >/dev/null 2>&1; echo over", seconds))
	eventually(t, 10*time.Second, "what the turn left behind is gone", func() bool { return len(processes(t, seconds)) == 0 })
	if r := c.ask("run: echo still"); r.Text != "still" || !r.Resumed {
		t.Errorf("the next turn says %+v", r)
	}
}

// testHotCost holds that each turn of one process costs what the model served
// for it.
func testHotCost(t *testing.T, d *deployment) {
	c := d.chat(t, "")
	first, second := c.ask("say: one"), c.ask("say: two")
	if first.Cost <= 0 || second.Cost <= 0 || second.Cost > 3*first.Cost || first.Cost > 3*second.Cost {
		t.Errorf("two turns alike cost %v and %v", first.Cost, second.Cost)
	}
}

// testIdleAgentsRest holds that agents use no processor time while they wait, but
// where a message is expected.
func testIdleAgentsRest(t *testing.T, d *deployment) {
	d.stands(t)
	c := d.chat(t, "")
	c.ask("say: hello")
	d.stands(t)
	const long = time.Second // ten times what an idle CLI lets pass without work
	last, since := d.agentTicks(t), time.Now()
	if last == "" {
		t.Fatal("no agent's process is found")
	}
	eventually(t, time.Minute, "idle agents use no processor time", func() bool {
		if now := d.agentTicks(t); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > long
	})
	c.stream("")
	eventually(t, 10*time.Second, "a stream that opens wakes the agent", func() bool { return d.agentTicks(t) != last })
	if r := c.ask("say: awake"); r.Text != "awake" {
		t.Errorf("the agent says %q", r.Text)
	}
}

// agentTicks is how much processor time each of the server's agents has used.
func (d *deployment) agentTicks(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(filepath.Base(filepath.Dir(d.cfg.DataDir)), filepath.Base(d.cfg.DataDir))
	var ticks []string
	for _, line := range processes(t, "stream-json") {
		pid, _, _ := strings.Cut(line, ":")
		cwd, _ := os.Readlink("/proc/" + pid + "/cwd")
		mounts, _ := os.ReadFile("/proc/" + pid + "/mountinfo")
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || !strings.Contains(cwd, folder) && !strings.Contains(string(mounts), folder) {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
		ticks = append(ticks, pid+":"+fields[11]+"+"+fields[12]) // utime and stime
	}
	return strings.Join(ticks, " ")
}

func testAbortWarm(t *testing.T, d *deployment) {
	d.stands(t)
	c, seconds := d.chat(t, ""), unique()
	running := c.begin("run: setsid sleep " + seconds)
	eventually(t, 20*time.Second, "the tool runs", func() bool { return len(processes(t, seconds)) > 0 })
	c.call(http.MethodPost, "/task/ID/abort")
	if r := <-running; r.status != http.StatusConflict {
		t.Errorf("the aborted task: %d %s", r.status, r.body)
	}
	eventually(t, 2*time.Second, "its tool is gone", func() bool { return len(processes(t, seconds)) == 0 })
	if r := c.ask("run: echo well"); r.Text != "well" {
		t.Errorf("the session says %q", r.Text)
	}
}
