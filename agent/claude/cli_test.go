package claude_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"claude-runner/agent"
	"claude-runner/agent/claude"
	"claude-runner/agent/clitest"
	"claude-runner/agent/scripted"
)

// serve starts a scripted model, and returns the URL of its API.
func serve(t testing.TB, script *scripted.Script) (*scripted.Server, string) {
	t.Helper()
	server := scripted.New(script, scripted.Options{})
	url, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return server, url
}

func builtin(t testing.TB, name string) *scripted.Script {
	t.Helper()
	script, err := scripted.Builtin(name)
	if err != nil {
		t.Fatal(err)
	}
	return script
}

// newLaunch is a launch of a new conversation with the model API at url.
func newLaunch(t testing.TB, url string) agent.Launch {
	t.Helper()
	home, workspace := clitest.Dir(t), clitest.Dir(t)
	return agent.Launch{
		Profile:   agent.DefaultProfile(),
		Template:  &agent.Template{System: "You are a test."},
		Model:     "claude-sonnet-4-6",
		NewID:     uuid.NewString(),
		Workspace: agent.Folder{Host: workspace, Sandbox: workspace},
		Home:      agent.Folder{Host: home, Sandbox: home},
		API:       agent.ModelAPI{BaseURL: url, APIKey: "sk-ant-scripted"},
	}
}

// process is a CLI that runs as a child of the test.
type process struct {
	agent.Conversation
	t      testing.TB
	cmd    *exec.Cmd
	stderr *bytes.Buffer
}

// start starts the real CLI by the driver's command.
func start(t testing.TB, l agent.Launch) *process {
	t.Helper()
	// A busy machine may be slow to tell of an interrupted turn.
	driver := claude.New(claude.Options{Program: clitest.Path(t), Grace: 20 * time.Second})
	command, err := driver.Command(l)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(command.Argv[0], command.Argv[1:]...)
	cmd.Dir = l.Workspace.Host
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	for name, value := range command.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: clitest.UnprivilegedID, Gid: clitest.UnprivilegedID}}
	}
	p := &process{t: t, cmd: cmd, stderr: &bytes.Buffer{}}
	cmd.Stderr = p.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.Conversation = driver.Open(l, stdin, stdout)
	t.Cleanup(p.end)
	return p
}

// end closes the conversation and waits for the process.
func (p *process) end() {
	if p.cmd.ProcessState != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		p.t.Errorf("close: %v", err)
		_ = p.cmd.Process.Kill()
		_ = p.Close(context.Background())
	}
	_ = p.cmd.Wait()
	if p.t.Failed() {
		p.t.Logf("standard error: %s", p.stderr)
	}
}

// kill ends the process as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.Close(context.Background())
	_ = p.cmd.Wait()
}

// turn is what a turn came to.
type turn struct {
	agent.Result
	events []agent.Event
	err    error
}

func (p *process) say(message string) turn {
	return p.sayIn(p.t.Context(), agent.Turn{Message: message}, nil)
}

// sayIn takes a turn. on is called for each event.
func (p *process) sayIn(ctx context.Context, message agent.Turn, on func(agent.Event)) turn {
	p.t.Helper()
	var got turn
	got.Result, got.err = p.Turn(ctx, message, func(e agent.Event) {
		got.events = append(got.events, e)
		if on != nil {
			on(e)
		}
	})
	return got
}

// must fails the test where the turn failed.
func (p *process) must(got turn) turn {
	p.t.Helper()
	if got.err != nil {
		p.t.Fatalf("turn: %v; standard error: %s", got.err, p.stderr)
	}
	return got
}

// of returns the turn's events of a type.
func (got turn) of(kind agent.EventType) []agent.Event {
	var found []agent.Event
	for _, e := range got.events {
		if e.Type == kind {
			found = append(found, e)
		}
	}
	return found
}

// texts joins the texts of the events of a type.
func (got turn) texts(kind agent.EventType) string {
	var b strings.Builder
	for _, e := range got.of(kind) {
		b.WriteString(e.Text)
	}
	return b.String()
}

func (got turn) code() agent.ErrorCode {
	var e *agent.Error
	if errors.As(got.err, &e) {
		return e.Code
	}
	return ""
}
