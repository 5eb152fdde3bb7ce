package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"

	"claude-runner/backends"
)

// requestPatience bounds a request that does no lasting work.
const requestPatience = 30 * time.Second

// image returns the engine's image for spec, which it pulls where the policy
// says so.
func (b *Backend) image(ctx context.Context, spec backends.Spec) (image.InspectResponse, error) {
	if spec.Image == "" {
		return image.InspectResponse{}, fmt.Errorf("%w: no image is named", backends.ErrInvalidSpec)
	}
	if spec.Pull == backends.PullAlways {
		if err := b.pull(ctx, spec); err != nil {
			return image.InspectResponse{}, err
		}
	}
	found, err := b.inspectImage(ctx, spec.Image)
	if spec.Pull == backends.PullAlways || !errors.Is(err, backends.ErrImageNotFound) {
		return found, err
	}
	if spec.Pull == backends.PullNever {
		return found, fmt.Errorf("%w; build it, or let the pull policy be %q", err, backends.PullMissing)
	}
	if err := b.pull(ctx, spec); err != nil {
		return found, err
	}
	return b.inspectImage(ctx, spec.Image)
}

func (b *Backend) inspectImage(ctx context.Context, ref string) (image.InspectResponse, error) {
	ctx, cancel := bounded(ctx, requestPatience)
	defer cancel()
	found, err := b.cli.ImageInspect(ctx, ref)
	if err != nil {
		return found, b.createError(ctx, "look for image "+ref, err)
	}
	return found, nil
}

// pull fetches the image and tells spec.OnPull how far it is.
func (b *Backend) pull(ctx context.Context, spec backends.Spec) error {
	doing := "pull image " + spec.Image
	answer, err := b.cli.ImagePull(ctx, spec.Image, image.PullOptions{})
	if err == nil {
		defer answer.Close()
		err = readPull(spec, answer)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil, isConnection(err):
		return b.engineError(ctx, doing, err)
	case cerrdefs.IsInvalidArgument(err):
		return b.createError(ctx, doing, err)
	}
	return fmt.Errorf("%s: %w: %w; an image from a private registry has to be pulled beforehand", doing, backends.ErrImageNotFound, err)
}

// pullMessage is what is read of the engine's progress messages. The client's
// module has a type for them only beside what draws them on a terminal.
type pullMessage struct {
	ID       string `json:"id"` // of the layer
	Status   string `json:"status"`
	Progress struct {
		Current int64 `json:"current"`
		Total   int64 `json:"total"`
	} `json:"progressDetail"`
	Error string `json:"error"`
}

// readPull follows a pull to its end. The engine tells a failure in the stream.
func readPull(spec backends.Spec, stream io.Reader) error {
	messages := json.NewDecoder(stream)
	progress := pullProgress{image: spec.Image, tell: spec.OnPull, layers: map[string]layer{}}
	for {
		var m pullMessage
		if err := messages.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read its progress: %w", err)
		}
		if m.Error != "" {
			return errors.New(m.Error)
		}
		progress.see(m)
	}
}

// pullProgress adds up the layers of a pull.
type pullProgress struct {
	image  string
	tell   func(backends.PullProgress) // may be nil
	layers map[string]layer
	last   backends.PullProgress // what was told last, and when
	told   time.Time
}

type layer struct{ current, total int64 }

// pullInterval keeps progress within what somebody can follow; a new status is
// told at once.
const pullInterval = 100 * time.Millisecond

func (p *pullProgress) see(m pullMessage) {
	if p.tell == nil {
		return
	}
	l := p.layers[m.ID]
	switch m.Status {
	case "Downloading":
		l = layer{m.Progress.Current, max(m.Progress.Total, l.total)}
	case "Download complete", "Pull complete":
		l.current = l.total
	}
	p.layers[m.ID] = l

	now := backends.PullProgress{Image: p.image, Status: m.Status}
	for _, l := range p.layers {
		now.Current += l.current
		now.Total += l.total
	}
	if now == p.last || now.Status == p.last.Status && time.Since(p.told) < pullInterval {
		return
	}
	p.last, p.told = now, time.Now()
	p.tell(now)
}
