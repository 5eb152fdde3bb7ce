package docker_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
	"go.uber.org/goleak"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/docker"
)

const testImage = "debian:bookworm-slim"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) { backendtest.Run(t, harness(t)) }

func BenchmarkConformance(b *testing.B) { backendtest.Benchmark(b, harness(b)) }

// runtimeVar is the environment variable that names the runtime, as runsc, that
// the suite's sandboxes have in place of the engine's default.
const runtimeVar = "CLAUDE_RUNNER_TEST_DOCKER_RUNTIME"

// harness joins the suite to this host's engine.
func harness(t testing.TB) backendtest.Harness {
	t.Helper()
	cli := engineClient(t)
	state := t.TempDir()
	instance := "test-" + filepath.Base(filepath.Dir(state))
	cfg := docker.Config{Runtime: os.Getenv(runtimeVar)}
	return backendtest.Harness{
		New:   func(t testing.TB) backends.Backend { return newBackend(t, cfg, instance) },
		Other: func(t testing.TB) backends.Backend { return newBackend(t, cfg, instance+"-other") },
		Dead: func(t testing.TB) backends.Backend {
			return newBackend(t, docker.Config{Host: "unix://" + filepath.Join(t.TempDir(), "no.sock")}, instance)
		},
		Image:     testImage,
		Leftovers: func(t testing.TB) []string { return containersOf(t, cli, instance) },
	}
}

// newBackend returns a backend called docker.
func newBackend(t testing.TB, cfg docker.Config, instance string) backends.Backend {
	t.Helper()
	b, err := docker.New(cfg, backends.Options{
		Name: "docker", Instance: instance, StateDir: t.TempDir(), User: backends.User{UID: 10001, GID: 10001},
		Log: newLog(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newLog(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// engineClient returns a client of this host's engine, or skips the test.
func engineClient(t testing.TB) *client.Client {
	t.Helper()
	b := newBackend(t, docker.Config{}, "test")
	defer b.Close()
	_, err := b.Check(context.Background())
	backendtest.Require(t, "docker", err)
	cli, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	_, err = cli.ImageInspect(context.Background(), testImage)
	backendtest.Require(t, "docker", err)
	return cli
}

// containersOf lists the containers of a runner's instance.
func containersOf(t testing.TB, cli *client.Client, instance string) []string {
	t.Helper()
	found, err := cli.ContainerList(context.Background(), container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", backends.LabelInstance+"="+instance)),
	})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range found {
		out = append(out, "container "+c.ID+" "+c.Names[0]+" "+c.Status)
	}
	return out
}

func removeContainer(cli *client.Client, id string) error {
	return cli.ContainerRemove(context.Background(), id, container.RemoveOptions{Force: true})
}
