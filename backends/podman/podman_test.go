package podman_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/podman"
)

// image is what `make image` gives every engine.
const image = "claude-runner-agent"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) { backendtest.Run(t, harness(t)) }

func BenchmarkSandbox(b *testing.B) { backendtest.Benchmark(b, harness(b)) }

// BenchmarkStartToExit measures what a user waits for: not the cleaning up.
func BenchmarkStartToExit(b *testing.B) {
	backend := engine(b, podman.Config{}, backends.Options{})
	defer backend.Close()
	for _, network := range []backends.NetworkMode{backends.NetworkNone, backends.NetworkOpen} {
		b.Run(string(network), func(b *testing.B) {
			for b.Loop() {
				s, err := backend.Start(b.Context(), backends.Spec{
					Name: "bench", Image: image, Pull: backends.PullNever, Argv: []string{"true"}, User: user(backend), Network: network,
				})
				if err != nil {
					b.Fatal(err)
				}
				if exit, err := s.Wait(b.Context()); err != nil || exit != (backends.Exit{}) {
					b.Fatalf("%+v, %v", exit, err)
				}
				b.StopTimer()
				if err := s.Stop(b.Context(), 0); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// newBackend returns a backend that the test closes itself.
func newBackend(t testing.TB, cfg podman.Config, opts backends.Options) backends.Backend {
	t.Helper()
	k := podman.Kind()
	c := k.NewConfig().(*podman.Config)
	*c = cfg
	opts.Name = cmp.Or(opts.Name, "podman")
	opts.Instance = cmp.Or(opts.Instance, instance(t))
	opts.StateDir = cmp.Or(opts.StateDir, t.TempDir())
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	b, err := k.New(c, opts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// instance is a runner's id that no other run of the tests has.
func instance(t testing.TB) string { return fmt.Sprintf("test/%s/%d", t.Name(), os.Getpid()) }

// engine returns a backend on the real service, or skips the test.
func engine(t testing.TB, cfg podman.Config, opts backends.Options) backends.Backend {
	t.Helper()
	b := newBackend(t, cfg, opts)
	_, err := backendtest.Check(b)
	if err != nil {
		_ = b.Close()
	}
	backendtest.Require(t, "podman", err)
	return b
}

func harness(t testing.TB) backendtest.Harness {
	own, state := instance(t), t.TempDir()
	_ = engine(t, podman.Config{}, backends.Options{}).Close()
	user := backends.User{UID: 10001, GID: 10001} // where the service is root's
	return backendtest.Harness{
		New: func(t testing.TB) backends.Backend {
			return newBackend(t, podman.Config{}, backends.Options{Instance: own, User: user, StateDir: state})
		},
		Other: func(t testing.TB) backends.Backend {
			return newBackend(t, podman.Config{}, backends.Options{Instance: own + "/other", User: user})
		},
		Dead: func(t testing.TB) backends.Backend {
			return newBackend(t, podman.Config{Socket: filepath.Join(t.TempDir(), "none.sock")}, backends.Options{})
		},
		Image: image,
		User:  user,
		Leftovers: func(t testing.TB) []string {
			files, err := filepath.Glob(filepath.Join(state, "*", "*"))
			if err != nil {
				t.Fatal(err)
			}
			return append(containers(t, own), files...)
		},
	}
}

// containers lists an instance's containers as the service itself sees them.
func containers(t testing.TB, instance string) []string {
	t.Helper()
	filters, _ := json.Marshal(map[string][]string{"label": {backends.LabelInstance + "=" + instance}})
	var found []struct {
		Names []string
		State string
	}
	get(t, "/containers/json?all=true&filters="+url.QueryEscape(string(filters)), &found)
	var out []string
	for _, c := range found {
		out = append(out, fmt.Sprintf("container %s, %s", strings.Join(c.Names, " "), c.State))
	}
	return out
}

// get asks the real service, not by way of the backend.
func get(t testing.TB, endpoint string, out any) {
	t.Helper()
	request(t, http.MethodGet, endpoint, nil, out)
}

// serviceAddress is where the real service listens: a socket's path or host:port.
func serviceAddress() string {
	if _, addr, ok := strings.Cut(os.Getenv("CONTAINER_HOST"), "://"); ok {
		return addr
	}
	return filepath.Join(cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), fmt.Sprintf("/run/user/%d", os.Getuid())), "podman/podman.sock")
}

// dial connects to a socket's path or host:port.
func dial(addr string) (net.Conn, error) {
	if filepath.IsAbs(addr) {
		return net.Dial("unix", addr)
	}
	return net.Dial("tcp", addr)
}

// transport sends every request to one address.
func transport(addr string) *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return dial(addr) },
	}
}

func request(t testing.TB, method, endpoint string, in, out any) {
	t.Helper()
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			t.Fatal(err)
		}
	}
	client := &http.Client{Transport: transport(serviceAddress())}
	req, err := http.NewRequest(method, "http://podman/v4.0.0/libpod"+endpoint, &body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s, %v: %s", method, endpoint, resp.Status, err, text)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			t.Fatalf("%s %s: %v", method, endpoint, err)
		}
	}
}
