package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"claude-runner/backends"
)

const (
	// createPatience bounds the creation of a container, which no caller's
	// context may cut: the engine would finish what nobody knows of.
	createPatience = 30 * time.Second

	// cancelPatience is how long Start waits for the engine when it has failed
	// or its context has ended, so that nothing is left when it returns.
	cancelPatience = 10 * time.Second
)

// Start creates a container and starts it, with its streams attached before,
// so that no byte is lost.
func (b *Backend) Start(ctx context.Context, spec backends.Spec) (backends.Sandbox, error) {
	s, err := b.start(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", spec.Name, err)
	}
	return s, nil
}

func (b *Backend) start(ctx context.Context, spec backends.Spec) (*sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, ended(ctx)
	}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	for _, m := range spec.Mounts {
		if err := m.CheckSource(); err != nil {
			return nil, err
		}
	}
	if b.at.scheme == "unix" {
		if err := backends.CheckMounts(spec.Mounts, b.at.addr); err != nil {
			return nil, err
		}
	}
	e, err := b.checked(ctx)
	if err != nil {
		return nil, err
	}
	user, err := b.user(spec, e)
	if err != nil {
		return nil, err
	}
	img, err := b.image(ctx, spec)
	if err != nil {
		return nil, err
	}
	host, err := hostConfig(b.cfg, spec, e)
	if err != nil {
		return nil, err
	}
	cfg := containerConfig(spec, user, e, img)
	if err := b.network(spec, e, cfg, host); err != nil {
		return nil, err
	}
	s, err := b.run(ctx, spec, cfg, host)
	if errors.Is(err, errRuntime) && ctx.Err() == nil {
		b.log.Warn("the container's runtime failed before it ran anything: once more", "sandbox", spec.Name, "error", err)
		return b.run(ctx, spec, cfg, host)
	}
	return s, err
}

// run makes a container and starts it. Where it fails there is none left.
func (b *Backend) run(ctx context.Context, spec backends.Spec, cfg *container.Config, host *container.HostConfig) (*sandbox, error) {
	start := rand.Text()
	var err error
	if cfg.Labels, err = b.labels(spec, start); err != nil {
		return nil, err
	}
	id, err := b.create(ctx, b.containerName(spec.Name), start, cfg, host)
	if err != nil {
		return nil, err
	}
	s, err := b.launch(ctx, b.handle(id, record{Name: spec.Name, Labels: spec.Labels}), spec.Timeout)
	if err != nil {
		b.discard(func(ctx context.Context) error { return b.remove(ctx, id) })
		return nil, err
	}
	return s, nil
}

// create makes a container. Where it fails, or ctx ends, no container is there
// when it returns; with an engine that takes very long, a little later.
func (b *Backend) create(ctx context.Context, name, start string, cfg *container.Config, host *container.HostConfig) (string, error) {
	var resp container.CreateResponse
	var err error
	answered := make(chan struct{})
	request := func() {
		defer close(answered)
		ctx, cancel := bounded(context.WithoutCancel(ctx), createPatience)
		defer cancel()
		if resp, err = b.cli.ContainerCreate(ctx, cfg, host, nil, nil, name); err != nil {
			err = b.createError(ctx, "create container", err)
		}
	}
	if !b.spawn(request) {
		return "", errClosed
	}
	select {
	case <-answered:
		if !errors.Is(err, backends.ErrUnavailable) { // which may have made it all the same
			return resp.ID, err
		}
	case <-ctx.Done():
	}
	b.discard(func(ctx context.Context) error {
		<-answered
		return b.removeStarted(ctx, start)
	})
	if ctx.Err() != nil {
		return "", fmt.Errorf("create container: %w", ended(ctx))
	}
	return "", err
}

// launch attaches to a container that was made, starts it, and returns the
// sandbox that looks after it. Where it fails the container is still there.
func (b *Backend) launch(ctx context.Context, h backends.Handle, timeout time.Duration) (*sandbox, error) {
	s := b.newSandbox(h)
	unhook := context.AfterFunc(ctx, func() { s.cancel(ended(ctx)) })
	defer unhook()

	// Both requests are answered before the start, each in a round trip.
	attached := make(chan attachment, 1)
	go func() { attached <- b.attach(s.ctx, h.ID) }()
	status, lost := b.cli.ContainerWait(s.ctx, h.ID, container.WaitConditionNextExit)
	var conn attachment
	select {
	case conn = <-attached:
	case <-s.ctx.Done():
		go func() { (<-attached).close() }() // the client can not cut this request short
		b.settle(status, lost)
		return nil, b.engineError(s.ctx, "attach to container", s.ctx.Err())
	}
	err := conn.err
	if err != nil {
		err = b.engineError(s.ctx, "attach to container", err)
	} else if err = b.cli.ContainerStart(ctx, h.ID, container.StartOptions{}); err != nil {
		err = b.startError(ctx, err)
	}
	if err == nil && (!unhook() || !s.adopt(conn.HijackedResponse, status, lost, time.Now(), timeout)) {
		err = fmt.Errorf("start container: %w", context.Cause(s.ctx))
	}
	if err != nil {
		s.cancel(err)
		conn.close()
		b.settle(status, lost)
		return nil, err
	}
	return s, nil
}

// attachment is a connection to a container's standard streams, or why there
// is none.
type attachment struct {
	types.HijackedResponse
	err error
}

func (b *Backend) attach(ctx context.Context, id string) attachment {
	conn, err := b.cli.ContainerAttach(ctx, id, container.AttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	return attachment{conn, err}
}

func (a attachment) close() {
	if a.err == nil {
		a.Close()
	}
}

// removeStarted removes the container that one Start made, if it is there.
func (b *Backend) removeStarted(ctx context.Context, start string) error {
	found, err := b.cli.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", labelStart+"="+start))})
	if err != nil {
		return err
	}
	for _, c := range found {
		if err := b.remove(ctx, c.ID); err != nil {
			return err
		}
	}
	return nil
}

// discard cleans up after a Start that failed, on a context of its own. It
// returns when that is done, or goes on when it takes too long for the caller.
func (b *Backend) discard(cleanUp func(context.Context) error) {
	done := make(chan struct{})
	work := func() {
		defer close(done)
		ctx, cancel := bounded(context.Background(), removePatience)
		defer cancel()
		if err := cleanUp(ctx); err != nil {
			b.log.Error("a container of a sandbox that was not started may be left", "error", err)
		}
	}
	if !b.spawn(work) {
		work() // Close waits for what it knows of
		return
	}
	select {
	case <-done:
	case <-time.After(cancelPatience):
	}
}
