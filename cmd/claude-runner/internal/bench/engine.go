package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"claude-runner/agent"
	"claude-runner/backends/docker"
	"claude-runner/backends/podman"
)

// engineRun is an engine's own "run" of the CLI, once for each task: what is done
// without a runner, and so without the runner's tuning of the CLI.
type engineRun struct {
	Command string `json:"command"` // for people
	Network string `json:"network"` // how the container reaches the model

	lab     *lab
	program string
	args    []string // of the network
	model   string   // URL, as the container reaches it
}

// engineNetworks says, by the kind of backend, which command runs a container
// and how it may reach the model on this host: the engine's usual network first.
var engineNetworks = map[string]struct {
	program string
	ways    []engineWay
}{
	docker.Kind().Name: {"docker", []engineWay{bridgeWay, hostWay}},
	podman.Kind().Name: {"podman", []engineWay{slirpWay, hostWay}},
}

// engineWay is one way from a container to the model.
type engineWay func(ctx context.Context, l *lab, program string) (engineRun, error)

// bridgeWay has the model listen on the engine's bridge too.
func bridgeWay(ctx context.Context, l *lab, program string) (engineRun, error) {
	out, err := exec.CommandContext(ctx, program, "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").Output()
	if err != nil {
		return engineRun{}, fmt.Errorf("find the engine's bridge: %w", err)
	}
	url, err := l.model.server.Listen(strings.TrimSpace(string(out)) + ":0")
	return engineRun{Network: "bridge", model: url}, err
}

// slirpWay has the container's user-mode network lead to this host's loopback.
func slirpWay(_ context.Context, l *lab, _ string) (engineRun, error) {
	return engineRun{
		Network: "slirp4netns", args: []string{"--network", "slirp4netns:allow_host_loopback=true"},
		model: strings.Replace(l.model.url, "127.0.0.1", "10.0.2.2", 1),
	}, nil
}

// hostWay gives the container this host's network.
func hostWay(_ context.Context, l *lab, _ string) (engineRun, error) {
	return engineRun{Network: "host", args: []string{"--network", "host"}, model: l.model.url}, nil
}

// engineRun returns the reference of a kind of backend, which has run once; nil
// where the kind has none, or none that works.
func (l *lab) engineRun(ctx context.Context, kind string) *engineRun {
	engine, ok := engineNetworks[kind]
	if !ok {
		return nil
	}
	if _, err := exec.LookPath(engine.program); err != nil {
		l.say("%s: no comparison with %s run: %v", kind, engine.program, err)
		return nil
	}
	var errs []error
	for _, way := range engine.ways {
		run, err := way(ctx, l, engine.program)
		if err == nil {
			run.lab, run.program, run.Command = l, engine.program, engine.program+" run --rm"
			if _, err = run.once(ctx); err == nil {
				return &run
			}
		}
		errs = append(errs, err)
	}
	l.say("%s: no comparison with %s run: %v", kind, engine.program, errors.Join(errs...))
	return nil
}

// once runs the CLI in a new container for one turn.
func (e *engineRun) once(ctx context.Context) (m moments, err error) {
	dir := filepath.Join(e.lab.dir, fmt.Sprintf("pipe-%d", e.lab.pipes.Add(1)))
	launch, command, err := e.lab.command(dir, agent.Folder{Sandbox: "/tmp"}, e.model)
	if err != nil {
		return m, errors.Join(err, os.RemoveAll(dir))
	}
	name := filepath.Base(e.lab.dir) + "-" + filepath.Base(dir)
	args := []string{"run", "--rm", "--interactive", "--init", "--name", name, "--pull", "never", "--user", "10001:10001", "--workdir", "/tmp"}
	for _, variable := range environ(command.Env) {
		args = append(args, "--env", variable)
	}
	args = slices.Concat(args, e.args, []string{e.lab.o.Image}, command.Argv)
	cmd := exec.CommandContext(ctx, e.program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { // the client's end is not the container's
		_ = exec.Command(e.program, "rm", "--force", name).Run()
		return cmd.Process.Kill()
	}
	p, err := e.lab.startPiped(cmd, launch)
	if err != nil {
		return m, errors.Join(err, os.RemoveAll(dir))
	}
	p.dir = dir
	m, err = p.turn(ctx, p.begun)
	err = errors.Join(err, p.close(ctx))
	m.ended = time.Since(p.begun)
	return m, err
}
