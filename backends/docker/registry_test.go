package docker_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// registry is an image registry on loopback, which engines need no TLS for.
type registry struct {
	addr string

	mu        sync.Mutex
	blobs     map[string][]byte // by digest
	manifests map[string][]byte // by tag and by digest
	asked     int               // requests for manifests
	midway    chan struct{}     // where set, the largest layer stops halfway until it is closed
}

const (
	manifestType = "application/vnd.docker.distribution.manifest.v2+json"
	configType   = "application/vnd.docker.container.image.v1+json"
	layerType    = "application/vnd.docker.image.rootfs.diff.tar"
)

func newRegistry(t *testing.T) *registry {
	t.Helper()
	r := &registry{blobs: map[string][]byte{}, manifests: map[string][]byte{}}
	srv := httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(srv.Close)
	r.addr = strings.TrimPrefix(srv.URL, "http://")
	return r
}

// ref is the name of the image with that tag.
func (r *registry) ref(tag string) string { return r.addr + "/tool:" + tag }

// push makes an image of a program, a file that holds the tag, and ballast,
// each in a layer, whose configuration has much that a sandbox must not take.
func (r *registry) push(t *testing.T, tag string, program []byte, arch string) {
	t.Helper()
	ballast := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(r.ref(tag)))).Read(ballast)
	type blob struct {
		MediaType string `json:"mediaType"`
		Size      int    `json:"size"`
		Digest    string `json:"digest"`
	}
	var layers []blob
	var diffs []string
	for name, content := range map[string][]byte{"tool": program, "tag": []byte(tag), "ballast": ballast} {
		layer := tarOf(t, name, content)
		layers = append(layers, blob{layerType, len(layer), r.put(layer)})
		diffs = append(diffs, digest(layer))
	}
	config, err := json.Marshal(map[string]any{
		"architecture": arch, "os": "linux",
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
		"config": map[string]any{
			"Entrypoint": []string{"/no/such/entrypoint"}, "Cmd": []string{"image's", "command"}, "User": "0:0", "WorkingDir": "/nowhere",
			"Env":         []string{"PATH=/image/bin:/", "FROM_IMAGE=x", "GIVEN=image's"},
			"Labels":      map[string]string{"from.image": "x"},
			"Healthcheck": map[string]any{"Test": []string{"CMD", "/no/such/check"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": blob{configType, len(config), r.put(config)}, "layers": layers,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests[tag], r.manifests[digest(manifest)] = manifest, manifest
}

func (r *registry) put(content []byte) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest(content)
	r.blobs[d] = content
	return d
}

func (r *registry) serve(w http.ResponseWriter, req *http.Request) {
	dir, name := filepath.Split(req.URL.Path)
	r.mu.Lock()
	var content []byte
	switch dir {
	case "/v2/tool/manifests/":
		r.asked++
		content = r.manifests[name]
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", digest(content))
	case "/v2/tool/blobs/":
		content = r.blobs[name]
	case "/v2/", "/":
		content = []byte("{}")
	}
	midway := r.midway
	r.mu.Unlock()
	if content == nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}`)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(content)))
	if req.Method == http.MethodHead {
		return
	}
	half := len(content) / 2
	_, _ = w.Write(content[:half])
	rest := content[half:]
	if midway != nil && half > 1<<20 {
		rest = trickle(w, req, rest, midway)
	}
	_, _ = w.Write(rest)
}

// trickle writes a little now and then until it is let go, and returns what is
// left: the engine tells of bytes that come in, and not of each.
func trickle(w http.ResponseWriter, req *http.Request, rest []byte, midway <-chan struct{}) []byte {
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		w.(http.Flusher).Flush()
		select {
		case <-midway:
			return rest
		case <-req.Context().Done():
			return nil
		case <-tick.C:
			n := len(rest) / 32
			_, _ = w.Write(rest[:n])
			rest = rest[n:]
		}
	}
}

func (r *registry) manifestsAsked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// buildTool compiles the program of the image.
func buildTool(t *testing.T, arch string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "tool")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, "./testdata/tool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	program, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func tarOf(t *testing.T, name string, content []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }
