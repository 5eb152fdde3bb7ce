package podman

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"claude-runner/backends"
)

const (
	// startTimeout bounds the engine's part of a start, behind the pull.
	startTimeout = time.Minute
	// startPatience is how long an engine's answer is still waited for when
	// the caller's context has ended: with it, what to clean up is known.
	startPatience = 5 * time.Second
	// cleanUpTimeout bounds the removal of a half-made sandbox.
	cleanUpTimeout = 30 * time.Second
)

// Start is described by backends.Backend.
func (b *Backend) Start(ctx context.Context, spec backends.Spec) (backends.Sandbox, error) {
	s, err := b.start(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", spec.Name, err)
	}
	return s, nil
}

func (b *Backend) start(ctx context.Context, spec backends.Spec) (*sandbox, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if b.addr.path != "" {
		if err := backends.CheckMounts(spec.Mounts, b.addr.path); err != nil {
			return nil, err
		}
	}
	e, err := b.known(ctx)
	if err == nil {
		err = b.usable(e)
	}
	if err != nil {
		return nil, err
	}
	req, err := b.request(e, spec)
	if err != nil {
		return nil, err
	}
	if err := b.ensureImage(ctx, spec); err != nil {
		return nil, err
	}
	rec := record{Name: spec.Name, Labels: spec.Labels, Start: rand.Text()}
	if spec.Timeout > 0 {
		rec.Deadline = time.Now().Add(spec.Timeout)
	}
	if rec.Log, err = b.logPath(e, rec.Start); err != nil {
		return nil, err
	}
	if req.Labels, err = b.labels(rec); err != nil {
		return nil, err
	}
	req.Log.Path = rec.Log
	engineCtx, cancel := outlive(ctx)
	defer cancel()
	s, err := b.makeAndStart(ctx, engineCtx, req, rec)
	if err != nil {
		return nil, errors.Join(err, b.discard(req.Name, rec))
	}
	return s, nil
}

// outlive returns a context that goes on for startPatience after ctx.
func outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	stop := context.AfterFunc(ctx, func() {
		end := time.AfterFunc(startPatience, cancel)
		context.AfterFunc(longer, func() { end.Stop() })
	})
	return longer, func() { stop(); cancel() }
}

// makeAndStart takes a sandbox all the way. Where it fails, a container may be
// left.
func (b *Backend) makeAndStart(ctx, engineCtx context.Context, req *createRequest, rec record) (*sandbox, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	created, err := b.createContainer(ctx, engineCtx, req)
	if err != nil {
		return nil, b.createError(engineCtx, req, rec, err)
	}
	for _, w := range created.Warnings {
		b.opts.Log.Warn("podman: "+w, "sandbox", rec.Name)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	conn, err := b.client.attach(engineCtx, created.ID)
	if err != nil {
		return nil, b.initError(engineCtx, created.ID, req, err)
	}
	if ctx.Err() == nil {
		err = b.client.call(engineCtx, http.MethodPost, "/containers/%s/start", nil, nil, nil, created.ID)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil {
		s := b.newSandbox(created.ID, rec, conn, 0)
		if err = s.begin(); err == nil {
			return s, nil
		}
	}
	conn.Close()
	return nil, err
}

// createContainer creates containers of a rootless service one at a time: two
// at once may crash it, since it looks up subordinate ids in a library that is
// not safe for threads (Podman 4.3 with libsubid).
func (b *Backend) createContainer(ctx, engineCtx context.Context, req *createRequest) (createResponse, error) {
	var created createResponse
	if req.UserNS != nil {
		select {
		case b.creating <- struct{}{}:
			defer func() { <-b.creating }()
		case <-ctx.Done():
			return created, ctx.Err()
		}
		unlock, err := b.addr.lock(ctx)
		if err != nil {
			return created, err
		}
		defer unlock()
	}
	err := b.client.call(engineCtx, http.MethodPost, "/containers/create", nil, req, &created)
	return created, err
}

// createError tells a name that is taken from other failures.
func (b *Backend) createError(ctx context.Context, req *createRequest, rec record, failed error) error {
	if status(failed) == 0 {
		return failed
	}
	// A container that is being made or removed has the name as well, although
	// the engine does not show it.
	taken := status(failed) == http.StatusConflict || slices.Contains(nameTaken, cause(failed))
	if !taken {
		found, err := b.inspect(ctx, req.Name)
		taken = err == nil && !found.isStart(rec)
	}
	if taken {
		return fmt.Errorf("%w: container %s", backends.ErrExists, req.Name)
	}
	return failed
}

// nameTaken are the causes that Podman's storage and Podman itself give.
var nameTaken = []string{"that name is already in use", "container already exists"}

// initError tells a working folder that is not there from other failures.
func (b *Backend) initError(ctx context.Context, id string, req *createRequest, failed error) error {
	if status(failed) != 0 && b.fileStatus(ctx, id, req.WorkDir) == http.StatusNotFound {
		return fmt.Errorf("%w: the working folder %s is not in the sandbox", backends.ErrInvalidSpec, req.WorkDir)
	}
	return failed
}

// discard removes what a failed start has left, if anything. It does so on a
// context of its own.
func (b *Backend) discard(name string, rec record) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
	defer cancel()
	found, err := b.inspect(ctx, name)
	switch {
	case errors.Is(err, backends.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("clean up: %w", err)
	case !found.isStart(rec):
		return nil // another start's
	}
	helpers := b.helpers(ctx, found.ID)
	if err := b.remove(ctx, found.ID); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return errors.Join(helpers.await(ctx), rec.removeLog())
}

// isStart reports whether the container is what that start has made.
func (i *inspection) isStart(rec record) bool {
	found, err := readRecord(i.Config.Labels)
	return err == nil && found.Start == rec.Start
}

func readRecord(labels map[string]string) (record, error) {
	var rec record
	if err := json.Unmarshal([]byte(labels[labelRecord]), &rec); err != nil {
		return rec, fmt.Errorf("podman: label %s: %w", labelRecord, err)
	}
	return rec, nil
}

// inspect returns what the engine knows of a container, by id or name.
func (b *Backend) inspect(ctx context.Context, id string) (*inspection, error) {
	var found inspection
	err := b.client.call(ctx, http.MethodGet, "/containers/%s/json", url.Values{"size": {"false"}}, nil, &found, id)
	if status(err) == http.StatusNotFound {
		return nil, fmt.Errorf("%w: podman has no container %s", backends.ErrNotFound, id)
	}
	return &found, err
}
