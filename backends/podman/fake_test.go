package podman_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"claude-runner/backends"
	"claude-runner/backends/podman"
)

// fake is a Podman service that says of itself what a test wants, and makes no
// container but keeps what it is asked for.
type fake struct {
	info    string
	asked   atomic.Int64 // how often for that
	busy    atomic.Bool  // it answers nothing but a ping
	created chan map[string]any
}

var apiPath = regexp.MustCompile(`^/v[0-9.]+/libpod`)

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Libpod-API-Version", "4.9.0")
	switch path := apiPath.ReplaceAllString(r.URL.Path, ""); {
	case path == "/_ping":
	case f.busy.Load():
		<-r.Context().Done()
	case path == "/containers/json":
		io.WriteString(w, "[]")
	case path == "/info":
		f.asked.Add(1)
		io.WriteString(w, f.info)
	case strings.HasPrefix(path, "/images/"):
		w.WriteHeader(http.StatusNoContent)
	case path == "/containers/create":
		var body map[string]any
		_ = json.NewDecoder(r.Body).Decode(&body)
		f.created <- body
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, `{"cause":"x","message":"it makes no container","response":500}`)
	default:
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"cause":"x","message":"no such container","response":404}`)
	}
}

// serve listens at a socket that a backend can be given.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	socket := socketPath(t)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return socket
}

// socketPath returns a path for a socket. It is short, as a socket's must be.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "podman")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "podman.sock")
}

// closing closes a backend at the test's end.
func closing(t *testing.T, b backends.Backend) backends.Backend {
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

const (
	subids     = `"idMappings":{"uidmap":[{"container_id":0,"host_id":1001,"size":1},{"container_id":1,"host_id":100000,"size":65536}],"gidmap":[{"container_id":0,"host_id":1002,"size":1},{"container_id":1,"host_id":100000,"size":65536}]}`
	noSubids   = `"idMappings":{"uidmap":[{"container_id":0,"host_id":1001,"size":1}],"gidmap":[{"container_id":0,"host_id":1001,"size":1}]}`
	rootless   = `"security":{"rootless":true,"seccompEnabled":true}`
	rootful    = `"security":{"rootless":false,"seccompEnabled":true}`
	version4_9 = `"version":{"Version":"4.9.4-rhel"}`
	version4_3 = `"version":{"Version":"4.3.1"}`
)

func infoOf(version string, host ...string) string {
	return `{"host":{"os":"linux",` + strings.Join(host, ",") + `},` + version + `}`
}

func TestWhatTheEngineSaysOfItself(t *testing.T) {
	all := backends.EnforcedLimits{Memory: true, CPUs: true, PIDs: true, OpenFiles: true, CPUTime: true, Tmpfs: true}
	some := backends.EnforcedLimits{OpenFiles: true, CPUTime: true, Tmpfs: true}
	delegated := some
	delegated.Memory, delegated.PIDs = true, true
	owner := &backends.User{UID: 1001, GID: 1002}
	for _, c := range []struct {
		name, info string
		enforced   backends.EnforcedLimits
		user       *backends.User
		notes      []string // a part of each
	}{
		{"rootless on cgroup v1", infoOf(version4_3, subids, rootless, `"cgroupVersion":"v1","cgroupControllers":["memory","cpu","pids"]`),
			some, owner, []string{"memory, cpus, pids are not enforced: rootless Podman needs cgroup v2"}},
		{"rootless on cgroup v2", infoOf(version4_9, subids, rootless, `"cgroupVersion":"v2","cgroupControllers":["cpu","memory","pids"]`),
			all, owner, nil},
		{"rootless with two controllers", infoOf(version4_9, subids, rootless, `"cgroupVersion":"v2","cgroupControllers":["memory","pids"]`),
			delegated, owner, []string{"cpus are not enforced: the system does not delegate"}},
		{"root's", infoOf(version4_9, rootful, `"cgroupVersion":"v2","cgroupControllers":["cpuset","cpu","io","memory","pids"]`),
			all, nil, nil},
		{"root's on cgroup v1", infoOf(version4_9, rootful, `"cgroupVersion":"v1","cgroupControllers":["cpu","memory","pids"]`),
			all, nil, []string{"without the reason"}},
		{"no seccomp", infoOf(version4_9, `"security":{}`, `"cgroupVersion":"v2","cgroupControllers":["cpu","memory","pids"]`),
			all, nil, []string{"filters no system calls"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := closing(t, newBackend(t, podman.Config{Socket: serve(t, &fake{info: c.info})}, backends.Options{}))
			status, err := b.Check(t.Context())
			if err != nil {
				t.Fatalf("Check: %v", err)
			}
			caps := b.Capabilities()
			if diff := cmp.Diff(c.enforced, caps.Enforced); diff != "" {
				t.Errorf("Enforced (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.user, caps.FixedUser); diff != "" && runtime.GOOS == "linux" { // elsewhere it is the socket's owner
				t.Errorf("FixedUser (-want +got):\n%s", diff)
			}
			notes := slices.DeleteFunc(status.Notes, func(n string) bool { return strings.Contains(n, "catatonit") }) // this host's
			if len(notes) != len(c.notes) {
				t.Fatalf("notes %q, want %d", notes, len(c.notes))
			}
			for i, want := range c.notes {
				if !strings.Contains(notes[i], want) {
					t.Errorf("note %q, want one with %q", notes[i], want)
				}
			}
		})
	}
}

func TestEnginesThatCanNotBeUsed(t *testing.T) {
	for _, c := range []struct{ name, info, want string }{
		{"no subordinate ids", infoOf(version4_9, noSubids, rootless), "usermod --add-subuids"},
		{"no mapping", infoOf(version4_9, rootless), "podman system migrate"},
		{"another system", `{"host":{"os":"freebsd",` + rootful + `},` + version4_9 + `}`, "sandboxes need Linux"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := closing(t, newBackend(t, podman.Config{Socket: serve(t, &fake{info: c.info})}, backends.Options{}))
			if _, err := b.Check(t.Context()); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check: %v, want ErrUnavailable with %q", err, c.want)
			}
		})
	}
}

func TestChecksAreCheap(t *testing.T) {
	f := &fake{info: infoOf(version4_9, subids, rootless)}
	d := newDoor(t, serve(t, f))
	b := closing(t, newBackend(t, podman.Config{Socket: d.path}, backends.Options{}))
	for range 3 {
		if _, err := b.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.asked.Load(); n != 1 {
		t.Errorf("three checks have asked the engine %d times what it is, want once", n)
	}
	d.shut()
	if _, err := b.Check(t.Context()); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "start the service") {
		t.Errorf("Check of a service that is away: %v, want ErrUnavailable and what to do", err)
	}
	d.open(t)
	if _, err := b.Check(t.Context()); err != nil {
		t.Errorf("Check of a service that is back: %v", err)
	}
}

func TestCheckOfAnEngineThatHangs(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	b := closing(t, newBackend(t, podman.Config{Socket: serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))}, backends.Options{}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Check(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Check: %v, want the context's error", err)
	}
}

func TestCheckOfAnEngineThatIsBusy(t *testing.T) {
	t.Parallel()
	f := &fake{info: infoOf(version4_9, subids, rootless)}
	b := closing(t, newBackend(t, podman.Config{Socket: serve(t, f)}, backends.Options{}))
	want, err := b.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.busy.Store(true)
	if got, err := b.Check(t.Context()); err != nil || !cmp.Equal(got, want) {
		t.Errorf("Check of an engine that pings: %+v, %v, want what it was before, %+v", got, err, want)
	}
}

func TestCheckOfAnEngineThatIsBusyFromTheBeginning(t *testing.T) {
	t.Parallel()
	f := &fake{info: infoOf(version4_9, subids, rootless)}
	f.busy.Store(true)
	b := closing(t, newBackend(t, podman.Config{Socket: serve(t, f)}, backends.Options{}))
	if _, err := b.Check(t.Context()); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("Check of an engine that never said what it is: %v, want ErrUnavailable and that it does not answer", err)
	}
}

func TestCheckOfAnEngineThatTakesLongToSayWhatItIs(t *testing.T) {
	t.Parallel()
	f := &fake{info: infoOf(version4_9, subids, rootless)}
	var asked atomic.Int64
	release := make(chan struct{})
	b := closing(t, newBackend(t, podman.Config{Socket: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/info") {
			asked.Add(1)
			select {
			case <-release:
			case <-r.Context().Done():
				return
			}
		}
		f.ServeHTTP(w, r)
	}))}, backends.Options{}))
	if _, err := b.Check(t.Context()); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("Check before it said what it is: %v, want ErrUnavailable and that it does not answer", err)
	}
	close(release)
	if _, err := b.Check(t.Context()); err != nil {
		t.Errorf("Check behind it: %v", err)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("it was asked what it is %d times, want the first answer to be taken", n)
	}
}

func TestCheckOfAnEngineThatHasStopped(t *testing.T) {
	t.Parallel()
	f := &fake{info: infoOf(version4_9, subids, rootless)}
	var stopped atomic.Bool
	b := closing(t, newBackend(t, podman.Config{Socket: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stopped.Load() {
			<-r.Context().Done()
			return
		}
		f.ServeHTTP(w, r)
	}))}, backends.Options{}))
	if _, err := b.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	stopped.Store(true)
	if _, err := b.Check(t.Context()); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("Check of an engine that does not even ping: %v, want ErrUnavailable and that it does not answer", err)
	}
}

// ask returns what a start asks the engine to create.
func ask(t *testing.T, info string, cfg podman.Config, spec backends.Spec) map[string]any {
	t.Helper()
	f := &fake{info: info, created: make(chan map[string]any, 1)}
	cfg.Socket = serve(t, f)
	b := closing(t, newBackend(t, cfg, backends.Options{User: backends.User{UID: 10001, GID: 10002}}))
	if _, err := b.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "it makes no container") {
		t.Fatalf("Start: %v", err)
	}
	return <-f.created
}

const delegatedHost = `"cgroupVersion":"v2","cgroupControllers":["memory","pids"]`

func TestWhatTheEngineIsAskedFor(t *testing.T) {
	source := t.TempDir()
	got := ask(t, infoOf(version4_9, subids, rootless, delegatedHost), podman.Config{Runtime: "crun"}, backends.Spec{
		Name: "box", Image: "some/image", Argv: []string{"program", "a", ""}, Env: map[string]string{"A": "b"}, Dir: "/work",
		Mounts: []backends.Mount{{Source: source, Target: "/work"}, {Source: source, Target: "/ro", ReadOnly: true}},
		Limits: backends.Limits{Memory: 1 << 30, CPUs: 0.5, PIDs: 99, OpenFiles: 64, CPUTime: 1500 * time.Millisecond, Tmpfs: map[string]int64{"/tmp": 1 << 20}},
		Labels: map[string]string{"session": "s"},
	})
	labels := got["labels"].(map[string]any)
	if labels["session"] != "s" || labels[backends.LabelManaged] != "true" || labels[backends.LabelInstance] == "" {
		t.Errorf("labels %v", labels)
	}
	delete(got, "labels")
	if name := got["name"].(string); !strings.HasSuffix(name, "-box") {
		t.Errorf("name %q", name)
	}
	delete(got, "name")
	delete(got["log_configuration"].(map[string]any), "path") // where the test's user is the engine's owner

	bind := func(target, mode string) any {
		return map[string]any{"type": "bind", "source": source, "destination": target, "options": []any{"rbind", "rprivate", "nosuid", "nodev", mode}}
	}
	want := map[string]any{
		"image": "some/image", "image_volume_mode": "ignore", "entrypoint": []any{"program"}, "command": []any{"a", ""},
		"env": map[string]any{"A": "b"}, "httpproxy": false, "work_dir": "/work", "user": "1001:1002", "userns": map[string]any{"nsmode": "keep-id"},
		"stdin": true, "init": true, "systemd": "false", "oci_runtime": "crun", "hostadd": []any{"host.docker.internal:host-gateway"},
		"cap_drop": []any{"ALL"}, "no_new_privileges": true, "read_only_filesystem": true, "volatile": true, "read_write_tmpfs": false,
		"mounts": []any{bind("/work", "rw"), bind("/ro", "ro"), map[string]any{
			"type": "tmpfs", "source": "tmpfs", "destination": "/tmp",
			"options": []any{"rw", "exec", "nosuid", "nodev", "notmpcopyup", "mode=1777", "size=1048576"},
		}},
		// CPUs are not held here, and not asked for.
		"resource_limits": map[string]any{"memory": map[string]any{"limit": 1073741824.0, "swap": 1073741824.0}, "pids": map[string]any{"limit": 99.0}},
		"r_limits": []any{
			map[string]any{"type": "nofile", "soft": 64.0, "hard": 64.0}, map[string]any{"type": "cpu", "soft": 2.0, "hard": 3.0},
		},
		"log_configuration": map[string]any{"driver": "k8s-file"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what is asked for (-want +got):\n%s", diff)
	}
}

func TestUsers(t *testing.T) {
	spec := backends.Spec{Name: "box", Image: "image", Argv: []string{"true"}}
	if got := ask(t, infoOf(version4_9, subids, rootless, delegatedHost), podman.Config{}, spec); got["user"] != "1001:1002" {
		t.Errorf("the zero User of a rootless engine is %v, want its owner", got["user"])
	}
	spec.User = backends.User{UID: 4000, GID: 4001}
	b := closing(t, newBackend(t, podman.Config{Socket: serve(t, &fake{info: infoOf(version4_9, subids, rootless)})}, backends.Options{}))
	if _, err := b.Start(t.Context(), spec); !errors.Is(err, backends.ErrInvalidSpec) {
		t.Errorf("another user than a rootless engine's owner: %v, want ErrInvalidSpec", err)
	}
}

func TestNetworks(t *testing.T) {
	spec := backends.Spec{Name: "box", Image: "image", Argv: []string{"true"}}
	old := ask(t, infoOf(version4_3, subids, rootless), podman.Config{}, spec)
	hosts, _ := old["hostadd"].([]any)
	if len(hosts) != 1 || net.ParseIP(strings.TrimPrefix(hosts[0].(string), backends.HostAlias+":")) == nil {
		t.Errorf("Podman 4.3, which has no host-gateway, is asked for hosts %v, want an address", hosts)
	}
	spec.Network = backends.NetworkNone
	none := ask(t, infoOf(version4_9, subids, rootless), podman.Config{}, spec)
	if diff := cmp.Diff(map[string]any{"nsmode": "none"}, none["netns"]); diff != "" || none["hostadd"] != nil {
		t.Errorf("network none is asked for as %v with hosts %v", none["netns"], none["hostadd"])
	}
}

func TestRemoteServicesAreRefused(t *testing.T) {
	for _, socket := range []string{"ssh://core@127.0.0.1:2222/run/podman/podman.sock", "tcp://192.0.2.7:8080"} {
		b := closing(t, newBackend(t, podman.Config{Socket: socket}, backends.Options{}))
		if b.Capabilities().BindMounts {
			t.Errorf("%s: BindMounts is true", socket)
		}
		_, checked := b.Check(t.Context())
		_, started := b.Start(t.Context(), backends.Spec{Name: "box", Image: "image", Argv: []string{"true"}})
		for _, err := range []error{checked, started} {
			if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "another host") {
				t.Errorf("%s: %v, want ErrUnavailable and the reason", socket, err)
			}
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		cfg podman.Config
		ok  bool
	}{
		{podman.Config{Socket: "/run/podman.sock"}, true},
		{podman.Config{Socket: "unix:///run/podman.sock"}, true},
		{podman.Config{Socket: "tcp://127.0.0.1:8080"}, true},
		{podman.Config{Socket: "tcp://[::1]:8080"}, true},
		{podman.Config{Socket: "podman.sock"}, false},
		{podman.Config{Socket: "unix://podman.sock"}, false},
		{podman.Config{Socket: "http://127.0.0.1"}, false},
		{podman.Config{Socket: "tcp://127.0.0.1:8080", StartService: true}, false},
	} {
		b, err := podman.New(c.cfg, backends.Options{Name: "podman"})
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.cfg, err)
		}
		if err == nil {
			b.Close()
		}
	}

	t.Setenv("CONTAINER_HOST", "unix:///nowhere/container-host.sock")
	b := closing(t, newBackend(t, podman.Config{}, backends.Options{}))
	if _, err := b.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "container-host.sock") {
		t.Errorf("CONTAINER_HOST is not used: %v", err)
	}
}

func TestPlainRegistry(t *testing.T) {
	for image, want := range map[string]bool{
		"127.0.0.1:5000/a/b": true, "localhost:5000/a": true, "[::1]:5000/a": true,
		"localhost/a": false, "a": false, "a:5000": false, "registry.example:5000/a": false, "192.0.2.1:5000/a": false,
	} {
		if got := podman.PlainRegistry(image); got != want {
			t.Errorf("%s: %v, want %v", image, got, want)
		}
	}
}
