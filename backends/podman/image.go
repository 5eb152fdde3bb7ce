package podman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"claude-runner/backends"
)

// ensureImage makes sure that the engine has the image, as the policy says. A
// name without a registry may be one that was built here (localhost/NAME).
func (b *Backend) ensureImage(ctx context.Context, spec backends.Spec) error {
	if spec.Image == "" {
		return fmt.Errorf("%w: no image is named", backends.ErrInvalidSpec)
	}
	if spec.Pull != backends.PullAlways {
		there, err := b.haveImage(ctx, spec.Image)
		if err != nil || there {
			return err
		}
		if spec.Pull == backends.PullNever {
			return fmt.Errorf("%w: podman has no image %s, and the pull policy is never; build or load it as the user of the podman service", backends.ErrImageNotFound, spec.Image)
		}
	}
	failed := b.pull(ctx, spec)
	if failed == nil || ctx.Err() != nil || errors.Is(failed, backends.ErrUnavailable) {
		return failed
	}
	if there, err := b.haveImage(ctx, spec.Image); err != nil || there {
		return failed
	}
	return fmt.Errorf("%w: %w", backends.ErrImageNotFound, failed)
}

func (b *Backend) haveImage(ctx context.Context, image string) (bool, error) {
	err := b.client.call(ctx, http.MethodGet, "/images/%s/exists", nil, nil, nil, image)
	if status(err) == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// pull fetches the image from its registry and reports what the engine says
// meanwhile.
func (b *Backend) pull(ctx context.Context, spec backends.Spec) error {
	query := url.Values{"reference": {spec.Image}, "policy": {"always"}}
	if plainRegistry(spec.Image) {
		query.Set("tlsVerify", "false")
	}
	body, err := b.client.open(ctx, http.MethodPost, "/images/pull", query)
	if err != nil {
		return fmt.Errorf("pull image %s: %w", spec.Image, err)
	}
	defer body.Close()
	for answer := json.NewDecoder(body); ; {
		var e pullEvent
		switch err := answer.Decode(&e); {
		case err == io.EOF:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("pull image %s: %w", spec.Image, ctx.Err())
		case err != nil:
			return fmt.Errorf("pull image %s: %w: %w", spec.Image, backends.ErrUnavailable, err)
		case e.Error != "":
			return fmt.Errorf("pull image %s: %s", spec.Image, e.Error)
		}
		if s := strings.TrimSpace(e.Stream); s != "" && spec.OnPull != nil {
			spec.OnPull(backends.PullProgress{Image: spec.Image, Status: s})
		}
	}
}

// plainRegistry reports whether the image's registry is on this host's
// loopback, where engines speak plain HTTP.
func plainRegistry(image string) bool {
	registry, _, ok := strings.Cut(image, "/")
	if !ok {
		return false
	}
	host, _, err := net.SplitHostPort(registry)
	return err == nil && isLoopback(host)
}
