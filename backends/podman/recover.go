package podman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"claude-runner/backends"
)

// List is described by backends.Backend.
func (b *Backend) List(ctx context.Context) ([]backends.Handle, error) {
	if err := b.open(); err != nil {
		return nil, err
	}
	filters, err := json.Marshal(map[string][]string{"label": {
		backends.LabelManaged + "=true", backends.LabelInstance + "=" + b.opts.Instance,
	}})
	if err != nil {
		return nil, err
	}
	var found []listed
	query := url.Values{"all": {"true"}, "filters": {string(filters)}}
	if err := b.client.call(ctx, http.MethodGet, "/containers/json", query, nil, &found); err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	var out []backends.Handle
	for _, c := range found {
		rec, err := readRecord(c.Labels)
		if err != nil {
			b.opts.Log.Warn("podman: a container has this runner's labels, but is none of its sandboxes", "container", c.ID, "error", err)
			continue
		}
		out = append(out, b.handle(c.ID, rec))
	}
	return out, nil
}

// Recover is described by backends.Backend. Standard input is closed by then.
func (b *Backend) Recover(ctx context.Context, h backends.Handle, from int64) (backends.Sandbox, error) {
	s, err := b.takeOver(ctx, h, from)
	if err != nil {
		return nil, fmt.Errorf("recover sandbox %s: %w", h.Name, err)
	}
	return s, nil
}

func (b *Backend) takeOver(ctx context.Context, h backends.Handle, from int64) (*sandbox, error) {
	if from < 0 {
		return nil, fmt.Errorf("output from byte %d: want 0 or more", from)
	}
	if _, err := b.known(ctx); err != nil {
		return nil, err
	}
	if h.ID == "" {
		return nil, fmt.Errorf("%w: the handle has no id", backends.ErrNotFound)
	}
	found, err := b.inspect(ctx, h.ID)
	if err != nil {
		return nil, err
	}
	rec, err := readRecord(found.Config.Labels)
	if err != nil || found.Config.Labels[backends.LabelInstance] != b.opts.Instance {
		return nil, fmt.Errorf("%w: container %s is no sandbox of this runner", backends.ErrNotFound, h.ID)
	}
	if !found.started() {
		return nil, errors.Join(fmt.Errorf("%w: it was never started", backends.ErrNotFound), b.discard(found.ID, rec))
	}
	s := b.newSandbox(found.ID, rec, nil, from)
	if err := s.begin(); err != nil {
		return nil, err
	}
	return s, nil
}
