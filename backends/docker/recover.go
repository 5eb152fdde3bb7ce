package docker

import (
	"context"
	"fmt"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"claude-runner/backends"
)

// List names the containers that carry this backend's labels.
func (b *Backend) List(ctx context.Context) ([]backends.Handle, error) {
	if _, err := b.checked(ctx); err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	ctx, cancel := bounded(ctx, requestPatience)
	defer cancel()
	found, err := b.cli.ContainerList(ctx, container.ListOptions{All: true, Filters: b.own()})
	if err != nil {
		return nil, b.engineError(ctx, "list sandboxes", err)
	}
	var handles []backends.Handle
	for _, c := range found {
		if _, h, ok := b.readLabels(c.ID, c.Labels); ok {
			handles = append(handles, h)
		}
	}
	return handles, nil
}

// Recover takes over a container. Its output comes from the engine's log,
// which holds back what follows the last newline until there is 16 KiB of it,
// or the next newline, or the end. Its standard input is closed.
func (b *Backend) Recover(ctx context.Context, h backends.Handle, from int64) (backends.Sandbox, error) {
	s, err := b.recover(ctx, h, from)
	if err != nil {
		return nil, fmt.Errorf("recover sandbox %s: %w", h.Name, err)
	}
	return s, nil
}

func (b *Backend) recover(ctx context.Context, h backends.Handle, from int64) (*sandbox, error) {
	if from < 0 {
		return nil, fmt.Errorf("output from byte %d: want 0 or more", from)
	}
	if _, err := b.checked(ctx); err != nil {
		return nil, err
	}
	c, err := b.inspect(ctx, h.ID)
	if err != nil {
		return nil, err
	}
	rec, own, ok := b.readLabels(c.ID, c.Config.Labels)
	if !ok {
		return nil, fmt.Errorf("%w: container %s is none of this runner's backend %s", backends.ErrNotFound, h.ID, b.name)
	}
	s := b.newSandbox(own)
	began := parseTime(c.State.StartedAt)
	watching := !isRunning(c) || b.spawn(func() { s.watch(nil, nil, began, rec.Timeout) })
	if !watching || !b.spawn(func() { s.conclude(s.follow(from, time.Time{})) }) {
		return nil, errClosed
	}
	return s, nil
}

// inspect asks the engine for a container. One that is gone is ErrNotFound.
func (b *Backend) inspect(ctx context.Context, id string) (container.InspectResponse, error) {
	ctx, cancel := bounded(ctx, requestPatience)
	defer cancel()
	c, err := b.cli.ContainerInspect(ctx, id)
	switch {
	case cerrdefs.IsNotFound(err):
		return c, fmt.Errorf("%w: %w", backends.ErrNotFound, err)
	case err != nil:
		return c, b.engineError(ctx, "inspect container", err)
	}
	if c.State == nil || c.Config == nil || c.HostConfig == nil {
		return c, fmt.Errorf("inspect container %s: the engine's answer is not whole", id)
	}
	return c, nil
}

// isGone reports whether the engine refused because the container does not run
// or is not there.
func isGone(err error) bool { return cerrdefs.IsNotFound(err) || cerrdefs.IsConflict(err) }
