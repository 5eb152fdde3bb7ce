package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"claude-runner/agent"
	"claude-runner/agent/claude"
)

// piped is the CLI on a pipe, driven with nothing between. It is started by the
// line that the runner starts it by, as command has it.
type piped struct {
	lab    *lab
	cmd    *exec.Cmd
	conv   agent.Conversation
	spoke  *firstByte
	stderr tail
	dir    string // to be removed; "": none
	begun  time.Time
}

// pipe starts the CLI as a plain process in a new home.
func (l *lab) pipe(ctx context.Context) (*piped, error) {
	dir := filepath.Join(l.dir, fmt.Sprintf("pipe-%d", l.pipes.Add(1)))
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, err
	}
	launch, command, err := l.command(dir, agent.Folder{Sandbox: ""}, l.model.url)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	cmd := exec.CommandContext(ctx, l.cli, command.Argv[1:]...)
	cmd.Dir = launch.Workspace.Host
	cmd.Env = append(environ(command.Env), "PATH="+strings.Join(searchPath(l.cliDir()), ":"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		u := l.sandboxUser()
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
	}
	p, err := l.startPiped(cmd, launch)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	p.dir = dir
	return p, nil
}

// command returns the line that starts the bare CLI, with folders in dir: without
// the variables by which the runner has it start sooner. Home, where it names a
// place, is that in a container.
func (l *lab) command(dir string, home agent.Folder, modelURL string) (agent.Launch, agent.Command, error) {
	template, err := agent.LoadTemplate("")
	if err != nil {
		return agent.Launch{}, agent.Command{}, err
	}
	folder := func(name string) agent.Folder {
		if home.Sandbox != "" {
			return agent.Folder{Host: filepath.Join(dir, name), Sandbox: home.Sandbox}
		}
		return agent.Folder{Host: filepath.Join(dir, name), Sandbox: filepath.Join(dir, name)}
	}
	profile := agent.DefaultProfile()
	launch := agent.Launch{
		Profile: profile, Template: template, Model: profile.Model, NewID: uuid.NewString(),
		Workspace: folder("workspace"), Home: folder("home"), Run: folder("run"),
		API: agent.ModelAPI{BaseURL: modelURL, APIKey: "sk-ant-bench"},
	}
	if err := l.makeFolders(launch.Workspace.Host, launch.Home.Host, launch.Run.Host); err != nil {
		return launch, agent.Command{}, err
	}
	command, err := claude.New(claude.Options{}).Command(launch)
	for _, tuned := range claude.TunedVariables() {
		delete(command.Env, tuned)
	}
	return launch, command, err
}

func environ(env map[string]string) []string {
	var out []string
	for name, value := range env {
		out = append(out, name+"="+value)
	}
	return out
}

func (l *lab) startPiped(cmd *exec.Cmd, launch agent.Launch) (*piped, error) {
	p := &piped{lab: l, cmd: cmd}
	cmd.Stderr = lineWriter{&p.stderr}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.begun = time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.spoke = &firstByte{from: stdout, came: make(chan struct{})}
	p.conv = claude.New(claude.Options{}).Open(launch, stdin, p.spoke)
	return p, nil
}

// turn gives the CLI a message; the clock began at begun.
func (p *piped) turn(ctx context.Context, begun time.Time) (moments, error) {
	mark := p.lab.mark()
	m := moments{}
	_, err := p.conv.Turn(ctx, agent.Turn{Message: mark}, func(e agent.Event) {
		if e.Type == agent.EventText && m.words == 0 {
			m.words = time.Since(begun)
		}
	})
	m.answer = time.Since(begun)
	if err != nil {
		return m, fmt.Errorf("%w %s", err, &p.stderr)
	}
	asked, err := p.lab.model.take(mark)
	m.request = asked.Sub(begun)
	return m, err
}

// awaitBoot waits until the CLI has booted and come to rest.
func (p *piped) awaitBoot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case <-p.spoke.came: // it answers the driver's first words when it has booted
		return pause(ctx, settling)
	case <-ctx.Done():
		return fmt.Errorf("the CLI has not booted: %w %s", ctx.Err(), &p.stderr)
	}
}

// close ends the CLI in order.
func (p *piped) close(ctx context.Context) error {
	patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := p.conv.Close(patient)
	if err != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Kill() // it may have ended
	}
	err = errors.Join(err, p.cmd.Wait())
	if p.dir != "" {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}

// pipedCold is the first turn of a CLI that is started for it.
func (l *lab) pipedCold(ctx context.Context) (moments, error) {
	p, err := l.pipe(ctx)
	if err != nil {
		return moments{}, err
	}
	m, err := p.turn(ctx, p.begun)
	return m, errors.Join(err, p.close(ctx))
}

// pipedBooted is the first turn of a CLI that has booted before.
func (l *lab) pipedBooted(ctx context.Context) (moments, error) {
	p, err := l.pipe(ctx)
	if err != nil {
		return moments{}, err
	}
	if err := p.awaitBoot(ctx); err != nil {
		return moments{}, errors.Join(err, p.close(ctx))
	}
	m, err := p.turn(ctx, time.Now())
	return m, errors.Join(err, p.close(ctx))
}

// firstByte tells when the first byte has come through.
type firstByte struct {
	from io.Reader
	came chan struct{}
	once sync.Once
}

func (f *firstByte) Read(b []byte) (int, error) {
	n, err := f.from.Read(b)
	if n > 0 {
		f.once.Do(func() { close(f.came) })
	}
	return n, err
}

// lineWriter writes into a tail.
type lineWriter struct{ to *tail }

func (w lineWriter) Write(b []byte) (int, error) {
	w.to.add(strings.TrimSpace(string(b)))
	return len(b), nil
}
