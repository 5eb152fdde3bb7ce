package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/docker/docker/api/types/filters"

	"claude-runner/backends"
)

// Labels of a container beside those of every backend and the Spec's own.
const (
	labelBackend = "claude-runner.backend" // the backend's configured name
	labelSandbox = "claude-runner.sandbox" // a record, as JSON
	labelStart   = "claude-runner.start"   // tells one Start from any other
)

// record is what a container keeps of its Spec for Recover.
type record struct {
	Version int               `json:"version"`
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"` // those of the image are among the container's
	Timeout time.Duration     `json:"timeout,omitempty"`
}

// version is that of record and of Handle.Data, which is empty.
const version = 1

// labels returns a container's labels, of which those that this backend needs
// have precedence; the record has all of the Spec's. start is unique.
func (b *Backend) labels(spec backends.Spec, start string) (map[string]string, error) {
	rec, err := json.Marshal(record{Version: version, Name: spec.Name, Labels: spec.Labels, Timeout: spec.Timeout})
	if err != nil {
		return nil, fmt.Errorf("%w: labels: %w", backends.ErrInvalidSpec, err)
	}
	out := maps.Clone(spec.Labels)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, map[string]string{
		backends.LabelManaged:  "true",
		backends.LabelInstance: b.instance,
		labelBackend:           b.name,
		labelSandbox:           string(rec),
		labelStart:             start,
	})
	return out, nil
}

// readLabels returns the record and the handle of the container id, or false
// where it is none of this backend's.
func (b *Backend) readLabels(id string, labels map[string]string) (record, backends.Handle, bool) {
	var rec record
	if labels[backends.LabelManaged] != "true" || labels[backends.LabelInstance] != b.instance || labels[labelBackend] != b.name ||
		json.Unmarshal([]byte(labels[labelSandbox]), &rec) != nil || rec.Version != version {
		return rec, backends.Handle{}, false
	}
	return rec, b.handle(id, rec), true
}

func (b *Backend) handle(id string, rec record) backends.Handle {
	return backends.Handle{Backend: b.name, ID: id, Name: rec.Name, Version: version, Labels: rec.Labels}
}

// own filters for this backend's containers.
func (b *Backend) own() filters.Args {
	return filters.NewArgs(
		filters.Arg("label", backends.LabelManaged+"=true"),
		filters.Arg("label", backends.LabelInstance+"="+b.instance),
		filters.Arg("label", labelBackend+"="+b.name),
	)
}

// containerName is unique on the engine for each runner and name of a sandbox:
// it holds a hash of the runner's instance, which may be any text.
func (b *Backend) containerName(name string) string {
	sum := sha256.Sum256([]byte(b.instance))
	return "claude-runner-" + hex.EncodeToString(sum[:6]) + "-" + name
}
