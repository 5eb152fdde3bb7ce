package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"claude-runner/backends"
)

// errSilent is the cause of a context that ended because the engine took longer
// than it ever should.
var errSilent = errors.New("the engine does not answer; restart it")

// errRuntime is an engine that has no objection to a container, and whose
// runtime failed all the same: gVisor's may crash while it starts.
var errRuntime = errors.New("the container's runtime failed")

// bounded returns a context for a request that an engine answers at once.
func bounded(ctx context.Context, patience time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, patience, errSilent)
}

// engineError wraps err, which the engine's client returned from a request
// with ctx, with what was being done. An engine that is not there or does not
// answer is ErrUnavailable, with what to do about it.
func (b *Backend) engineError(ctx context.Context, doing string, err error) error {
	switch {
	case errors.Is(context.Cause(ctx), errSilent):
		return fmt.Errorf("%s: %w: docker engine at %s: %w", doing, backends.ErrUnavailable, b.at.host, errSilent)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", doing, ended(ctx))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: no permission for the docker engine at %s: add this user to the group that owns the socket (usermod -aG docker USER) and log in again, or set this backend's host to a rootless engine of this user",
			doing, backends.ErrUnavailable, b.at.host)
	case isConnection(err):
		return fmt.Errorf("%s: %w: %s", doing, backends.ErrUnavailable, b.connectionAdvice())
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// ended returns the error of a context that has ended, with its cause.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return fmt.Errorf("%w: %w", ctx.Err(), cause)
	}
	return ctx.Err()
}

func (b *Backend) connectionAdvice() string {
	const start = "start it (systemctl start docker, or Docker Desktop)"
	if _, err := os.Stat(b.at.addr); b.at.scheme == "unix" && errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("there is no docker engine at %s: %s, install Docker, or set this backend's host to where the engine listens", b.at.host, start)
	}
	return fmt.Sprintf("nothing answers at %s: %s", b.at.host, start)
}

// isConnection reports whether err is about reaching the engine, rather than
// the engine's answer.
func isConnection(err error) bool {
	var op *net.OpError
	return client.IsErrConnectionFailed(err) || errors.As(err, &op) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// createError maps the engine's refusal to make a container, or to find or pull
// its image.
func (b *Backend) createError(ctx context.Context, doing string, err error) error {
	switch {
	case ctx.Err() != nil, isConnection(err):
		return b.engineError(ctx, doing, err)
	case cerrdefs.IsConflict(err):
		return fmt.Errorf("%s: %w: %w", doing, backends.ErrExists, err)
	case cerrdefs.IsNotFound(err):
		return fmt.Errorf("%s: %w: %w", doing, backends.ErrImageNotFound, err)
	case cerrdefs.IsInvalidArgument(err):
		return fmt.Errorf("%s: %w: %w", doing, backends.ErrInvalidSpec, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// startError maps the engine's refusal to start a container that was made.
func (b *Backend) startError(ctx context.Context, err error) error {
	const doing = "start container"
	switch {
	case ctx.Err() != nil:
	case cerrdefs.IsInvalidArgument(err):
		return fmt.Errorf("%s: %w: %w", doing, backends.ErrInvalidSpec, err)
	case cerrdefs.IsInternal(err):
		return fmt.Errorf("%s: %w: %w", doing, errRuntime, err)
	}
	return b.engineError(ctx, doing, err)
}
