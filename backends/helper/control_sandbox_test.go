package helper_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"claude-runner/agent/scripted"
	"claude-runner/backends"
)

// sweeps leaves processes behind, in a sandbox whose first process may be the
// engine's own.
func sweeps(t *testing.T, s *sandboxes) {
	if runtime.GOOS != "linux" {
		t.Skip("a subreaper is Linux's")
	}
	mark := fmt.Sprintf("86400.%d", time.Now().UnixNano())
	sb, _ := s.start(t, `sleep $MARK >&2 & own=$!
sh -c 'setsid nohup sleep $MARK >&2 &'
(setsid sh -c 'sleep $MARK >&2 & sleep $MARK >&2 &' &)
(sh -c 'sleep $MARK & wait' >&2 &)
echo ready; while read -r x; do kill -0 $own && echo $x; done`, map[string]string{"MARK": mark})
	ready(t, sb)
	sleepers := func() int {
		pids, _ := exec.Command("pgrep", "-f", "^sleep "+mark).Output()
		return len(strings.Fields(string(pids)))
	}
	eventually(t, "the sleepers", func() bool { return sleepers() == 5 })
	if _, err := io.WriteString(sb.Stdin(), backends.ControlSweep+"swept\n"); err != nil {
		t.Fatal(err)
	}
	expectLine(t, bufio.NewReader(sb.Stdout()), "swept")
	if n := sleepers(); n != 1 {
		t.Errorf("%d processes are left, want the agent's own child alone", n)
	}
}

// realAgentRests has turns of the real CLI, and rest between them.
func realAgentRests(t *testing.T, s *sandboxes) {
	if !s.caps.Sockets {
		t.Skip("Capabilities.Sockets is false")
	}
	if runtime.GOOS != "linux" {
		t.Skip("processor time is read from /proc")
	}
	model := scripted.New(scripted.MustParse(`
rules:
  - match: {tool_results: 0}
    answer: [{tool_use: Bash, input: {command: "(setsid sleep 600 >/dev/null 2>&1 &); echo $((6*7))", description: Try}}]
  - answer: [{text: "Turn {{.Turn}}: {{trim .LastToolResult}}"}]
`), scripted.Options{})
	defer model.Close()
	id := fmt.Sprintf("7d8f7bb0-1f9e-4a3e-9b1c-%012x", time.Now().UnixNano()&(1<<48-1))
	env := s.agentEnv(t)
	env["ID"] = id
	sb, dir := s.start(t, `read x; cd $W && exec claude -p --input-format stream-json --output-format stream-json --verbose --session-id $ID --dangerously-skip-permissions`, env)
	serve(t, filepath.Join(dir, "gateway.sock"), model)
	out := bufio.NewReader(sb.Stdout())
	say := func(text string) {
		if _, err := io.WriteString(sb.Stdin(), text); err != nil {
			t.Fatal(err)
		}
	}
	say("\n")
	for turn := range 3 {
		say(`{"type":"user","message":{"role":"user","content":"go"}}` + "\n")
		line := ""
		for !strings.Contains(line, `"type":"result"`) {
			var err error
			if line, err = out.ReadString('\n'); err != nil {
				errs, _ := io.ReadAll(sb.Stderr())
				t.Fatalf("turn %d: %v; stderr %q", turn+1, err, clip(string(errs)))
			}
		}
		if want := fmt.Sprintf("Turn %d: 42", turn+1); !strings.Contains(line, want) {
			t.Errorf("the result is %s, want %q in it", clip(line), want)
		}
		say(backends.ControlSweep + backends.ControlRest)
		found, _ := exec.Command("pgrep", "-f", "session-id "+id).Output()
		agent, err := strconv.Atoi(strings.TrimSpace(string(found)))
		if err != nil {
			t.Fatalf("the agent's processes are %q", found)
		}
		eventually(t, "rest", func() bool { return stateOf(agent) == "T" })
		before := ticks(agent)
		time.Sleep(200 * time.Millisecond) // what is measured, and not waited for
		if after := ticks(agent); after != before {
			t.Errorf("turn %d: processor time moves from %s to %s", turn+1, before, after)
		}
	}
	if r := finish(t, sb); r.exit != (backends.Exit{}) || r.errs != "" {
		t.Errorf("stderr %q, exit %+v; the model's problems: %q", clip(r.errs), r.exit, model.Problems())
	}
}

// stopsAtRest has TERM wake the agent.
func stopsAtRest(t *testing.T, s *sandboxes) {
	sb, _ := s.start(t, "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.02; done", nil)
	ready(t, sb)
	if _, err := io.WriteString(sb.Stdin(), backends.ControlRest+"\x00none\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is said behind the command", func() bool {
		errs, _ := io.ReadAll(sb.Stderr())
		return len(errs) > 0
	})
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop(t, sb, patience) }()
	r := finish(t, sb)
	<-stopped
	if want := (backends.Exit{Code: 7, Stopped: true}); r.out != "got\n" || r.exit != want {
		t.Errorf("it says %q and ends with %+v, want %+v", r.out, r.exit, want)
	}
}

// stateOf is a process's state, as proc(5) abbreviates it; "": it has ended.
func stateOf(pid int) string { return procStat(pid, 0) }

// ticks are the processor time that a process has used: user's and system's.
func ticks(pid int) string { return procStat(pid, 11) + "+" + procStat(pid, 12) }

// procStat is a field of a process's status, counted behind its name.
func procStat(pid, field int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if field >= len(fields) {
		return ""
	}
	return fields[field]
}
