package podman_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"claude-runner/backends"
	"claude-runner/backends/podman"
)

// registry is an image registry on loopback with one image, test/empty:1, and
// counts how often its manifest is fetched.
type registry struct {
	*httptest.Server
	fetched atomic.Int64
	blobs   map[string][]byte // by digest
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

func newRegistry(t *testing.T) *registry {
	t.Helper()
	r := &registry{blobs: map[string][]byte{}}
	var layer, packed bytes.Buffer
	w := tar.NewWriter(&layer)
	content := "hello " + t.Name()
	if err := w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, content)
	w.Close()
	z := gzip.NewWriter(&packed)
	z.Write(layer.Bytes())
	z.Close()

	config := r.add(t, configType, encode(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer.Bytes())}},
	}))
	manifest := encode(t, map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": []any{r.add(t, layerType, packed.Bytes())},
	})
	r.blobs[digest(manifest)] = manifest
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.serve(w, req, manifest)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *registry) serve(w http.ResponseWriter, req *http.Request, manifest []byte) {
	rest, ours := strings.CutPrefix(req.URL.Path, "/v2/test/empty/")
	kind, name, _ := strings.Cut(rest, "/")
	switch {
	case req.URL.Path == "/v2/":
	case ours && kind == "manifests" && (name == "1" || name == digest(manifest)):
		r.fetched.Add(1)
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", digest(manifest))
		w.Write(manifest)
	case ours && kind == "blobs" && r.blobs[name] != nil:
		w.Write(r.blobs[name])
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such image"}]}`)
	}
}

func (r *registry) add(t *testing.T, mediaType string, blob []byte) map[string]any {
	r.blobs[digest(blob)] = blob
	return map[string]any{"mediaType": mediaType, "digest": digest(blob), "size": len(blob)}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func TestPull(t *testing.T) {
	b := closing(t, engine(t, podman.Config{}, backends.Options{}))
	r := newRegistry(t)
	name := strings.TrimPrefix(r.URL, "http://") + "/test/empty:1"
	t.Cleanup(func() {
		request(t, http.MethodDelete, "/images/"+strings.ReplaceAll(name, "/", "%2F")+"?force=true", nil, nil)
	})

	// start runs a program that the image does not have; what counts is the image.
	start := func(image string, policy backends.PullPolicy) (progress []backends.PullProgress, err error) {
		t.Helper()
		s, err := b.Start(t.Context(), backends.Spec{
			Name: "pull", Image: image, Pull: policy, Argv: []string{"no-such-program"}, Network: backends.NetworkNone,
			User:   user(b),
			OnPull: func(p backends.PullProgress) { progress = append(progress, p) },
		})
		if err != nil {
			return progress, err
		}
		if exit, err := s.Wait(t.Context()); err != nil || exit.Code != 127 {
			t.Errorf("a program that is not in the image ended with %+v, %v, want exit code 127", exit, err)
		}
		return progress, s.Stop(t.Context(), 0)
	}

	if _, err := start(name, backends.PullNever); !errors.Is(err, backends.ErrImageNotFound) || r.fetched.Load() != 0 {
		t.Errorf("never: %v, fetched %d times; want ErrImageNotFound and none", err, r.fetched.Load())
	}
	if _, err := start(strings.Replace(name, "empty", "missing", 1), backends.PullMissing); !errors.Is(err, backends.ErrImageNotFound) {
		t.Errorf("an image that the registry has not: %v, want ErrImageNotFound", err)
	}
	progress, err := start(name, backends.PullMissing)
	if err != nil || len(progress) == 0 || progress[0].Image != name || progress[0].Status == "" {
		t.Errorf("missing: %v, progress %+v", err, progress)
	}
	first := r.fetched.Load()
	if progress, err := start(name, ""); err != nil || len(progress) > 0 || r.fetched.Load() != first {
		t.Errorf("missing, of an image that is there: %v, progress %+v, fetched %d times more", err, progress, r.fetched.Load()-first)
	}
	if _, err := start(name, backends.PullAlways); err != nil || r.fetched.Load() == first {
		t.Errorf("always: %v, fetched %d times more", err, r.fetched.Load()-first)
	}
	if _, err := start(name, backends.PullNever); err != nil {
		t.Errorf("never, of an image that is there: %v", err)
	}
	r.Close()
	if _, err := start(name, backends.PullAlways); err == nil || errors.Is(err, backends.ErrImageNotFound) {
		t.Errorf("always, from a registry that is away: %v, want an error that is not ErrImageNotFound: the image is there", err)
	}
}
