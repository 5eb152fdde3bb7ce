package docker_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/system"
	"github.com/google/go-cmp/cmp"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/docker"
)

// ordinary is what a usual engine says of itself.
func ordinary() system.Info {
	return system.Info{
		ServerVersion: "28.0.1", OSType: "linux", MemoryLimit: true, SwapLimit: true, CPUCfsPeriod: true, CPUCfsQuota: true, PidsLimit: true,
		SecurityOptions: []string{"name=apparmor", "name=seccomp,profile=builtin"}, CgroupDriver: "systemd", DefaultRuntime: "runc",
		Runtimes: map[string]system.RuntimeWithStatus{
			"runc":   {Runtime: system.Runtime{Path: "runc"}},
			"gvisor": {Runtime: system.Runtime{Path: "/usr/local/bin/runsc"}},
			"shim":   {Runtime: system.Runtime{Type: "io.containerd.runsc.v1"}},
		},
	}
}

func TestCheck(t *testing.T) {
	own := backends.User{UID: os.Getuid(), GID: os.Getgid()}
	all := backends.EnforcedLimits{Memory: true, CPUs: true, PIDs: true, OpenFiles: true, CPUTime: true, Tmpfs: true}
	gvisor := all
	gvisor.PIDs, gvisor.CPUTime = false, false
	for name, c := range map[string]struct {
		runtime   string
		edit      func(*system.Info)
		isolation backends.Isolation
		noSockets bool
		enforced  backends.EnforcedLimits
		fixedUser *backends.User
		notes     []string // a part of each
	}{
		"ordinary": {isolation: backends.IsolationContainer, enforced: all},
		"gVisor as a program": {
			runtime: "gvisor", isolation: backends.IsolationUserspace, enforced: gvisor, noSockets: true, notes: []string{"--host-uds=open", "gVisor"},
		},
		"gVisor as a shim": {
			runtime: "shim", isolation: backends.IsolationUserspace, enforced: gvisor, noSockets: true, notes: []string{"--host-uds=open", "gVisor"},
		},
		"gVisor by default": {
			edit:      func(i *system.Info) { i.DefaultRuntime = "shim" },
			isolation: backends.IsolationUserspace, enforced: gvisor, noSockets: true, notes: []string{"--host-uds=open", "gVisor"},
		},
		"gVisor that lets sandboxes reach sockets": {
			runtime: "gvisor",
			edit: func(i *system.Info) {
				i.Runtimes["gvisor"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "runsc", Args: []string{"--platform=kvm", "--host-uds=open"}}}
			},
			isolation: backends.IsolationUserspace, enforced: gvisor, notes: []string{"gVisor"},
		},
		"Docker Desktop": {
			edit:      func(i *system.Info) { i.OperatingSystem = "Docker Desktop" },
			isolation: backends.IsolationContainer, enforced: all, noSockets: true,
		},
		"SELinux": {
			edit:      func(i *system.Info) { i.SecurityOptions = append(i.SecurityOptions, "name=selinux") },
			isolation: backends.IsolationContainer, enforced: all, noSockets: true, notes: []string{"SELinux"},
		},
		"no swap limit": {
			edit:      func(i *system.Info) { i.SwapLimit = false },
			isolation: backends.IsolationContainer, enforced: all, notes: []string{"swapaccount=1"},
		},
		"no seccomp": {
			edit:      func(i *system.Info) { i.SecurityOptions = nil },
			isolation: backends.IsolationContainer, enforced: all, notes: []string{"seccomp"},
		},
		"rootless without cgroups": {
			edit: func(i *system.Info) {
				i.SecurityOptions = append(i.SecurityOptions, "name=rootless")
				i.MemoryLimit, i.SwapLimit, i.CPUCfsQuota, i.PidsLimit, i.CgroupDriver = false, false, false, false, "none"
			},
			isolation: backends.IsolationContainer, enforced: backends.EnforcedLimits{OpenFiles: true, CPUTime: true, Tmpfs: true},
			fixedUser: &own, notes: []string{"memory; rootless", "processors; rootless", "processes; rootless", "as its owner", "own network"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			info := ordinary()
			if c.edit != nil {
				c.edit(&info)
			}
			b := newBackend(t, docker.Config{Host: fakeEngine(t, "1.48", info), Runtime: c.runtime}, "test")
			defer b.Close()
			status, err := b.Check(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			caps := b.Capabilities()
			if caps.Isolation != c.isolation || status.Version != info.ServerVersion {
				t.Errorf("isolation %s, version %s", caps.Isolation, status.Version)
			}
			if want := !c.noSockets && runtime.GOOS == "linux"; caps.Sockets != want {
				t.Errorf("Sockets is %v, want %v", caps.Sockets, want)
			}
			if diff := cmp.Diff(c.enforced, caps.Enforced); diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.fixedUser, caps.FixedUser); diff != "" {
				t.Errorf("fixed user (-want +got):\n%s", diff)
			}
			if len(status.Notes) != len(c.notes) {
				t.Fatalf("notes %q, want %d", status.Notes, len(c.notes))
			}
			for i, part := range c.notes {
				if !strings.Contains(status.Notes[i], part) {
					t.Errorf("note %q has no %q", status.Notes[i], part)
				}
			}
		})
	}
}

// What Check refuses, Start refuses as well, and both say what to do.
func TestCheckRefuses(t *testing.T) {
	missing := "unix://" + filepath.Join(t.TempDir(), "no.sock")
	for name, c := range map[string]struct {
		host func(*testing.T) string
		cfg  docker.Config
		want string // a part of the error
	}{
		"too old":             {host: func(t *testing.T) string { return fakeEngine(t, "1.40", ordinary()) }, want: "20.10"},
		"Windows containers":  {host: func(t *testing.T) string { i := ordinary(); i.OSType = "windows"; return fakeEngine(t, "1.48", i) }, want: "Linux containers"},
		"unknown runtime":     {host: func(t *testing.T) string { return fakeEngine(t, "1.48", ordinary()) }, cfg: docker.Config{Runtime: "kata"}, want: `no runtime "kata", only gvisor, runc, shim`},
		"no socket":           {cfg: docker.Config{Host: missing}, want: "there is no docker engine at " + missing + ": start it"},
		"nobody listens":      {cfg: docker.Config{Host: "tcp://127.0.0.1:1"}, want: "nothing answers at tcp://127.0.0.1:1: start it"},
		"another host":        {cfg: docker.Config{Host: "tcp://192.0.2.1:2375"}, want: "an engine on this host"},
		"another host by ssh": {cfg: docker.Config{Host: "ssh://user@192.0.2.1"}, want: "an engine on this host"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.host != nil {
				c.cfg.Host = c.host(t)
			}
			b := newBackend(t, c.cfg, "test")
			defer b.Close()
			_, checked := b.Check(t.Context())
			_, started := b.Start(t.Context(), backends.Spec{Name: "x", Image: "x", Argv: []string{"x"}})
			_, listed := b.List(t.Context())
			_, recovered := b.Recover(t.Context(), backends.Handle{ID: "x"}, 0)
			for what, err := range map[string]error{"Check": checked, "Start": started, "List": listed, "Recover": recovered} {
				if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v, want %v with %q", what, err, backends.ErrUnavailable, c.want)
				}
			}
			if caps := b.Capabilities(); caps.BindMounts == strings.Contains(name, "another host") {
				t.Errorf("BindMounts is %v", caps.BindMounts)
			}
		})
	}
}

// An engine that takes connections and says nothing is given up in time.
func TestSilentEngine(t *testing.T) {
	t.Parallel()
	listener := listenUnix(t)
	var conns []net.Conn
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-accepted
		for _, c := range conns {
			_ = c.Close()
		}
	})
	b := newBackend(t, docker.Config{Host: "unix://" + listener.Addr().String()}, "test")
	defer b.Close()
	began := time.Now()
	_, err := b.Check(t.Context())
	if took := time.Since(began); !errors.Is(err, backends.ErrUnavailable) || took > 10*time.Second {
		t.Errorf("Check after %v: %v, want %v within ten seconds", took, err, backends.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := b.Check(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Check with a deadline: %v, want %v", err, context.DeadlineExceeded)
	}
}

// TestNoPermission runs this test's program as a user who may not connect.
func TestNoPermission(t *testing.T) {
	const hostVar = "TEST_DOCKER_FORBIDDEN_HOST"
	if host := os.Getenv(hostVar); host != "" {
		b := newBackend(t, docker.Config{Host: host}, "test")
		defer b.Close()
		_, err := b.Check(t.Context())
		if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "usermod -aG docker") {
			t.Errorf("Check: %v, want %v and what to do", err, backends.ErrUnavailable)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can become a user without permission")
	}
	host := fakeEngine(t, "1.48", ordinary())
	socket := strings.TrimPrefix(host, "unix://")
	for path, mode := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Skip(err)
	}
	path := filepath.Join(backendtest.SharedDir(t), "test")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-test.run=^TestNoPermission$", "-test.count=1")
	cmd.Env = []string{hostVar + "=" + host, "TMPDIR=/tmp"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestNewRefusesHost(t *testing.T) {
	for _, host := range []string{"/var/run/docker.sock", "unix://docker.sock", "unix://", "tcp://", "npipe:////./pipe/docker_engine"} {
		b, err := docker.New(docker.Config{Host: host}, backends.Options{Name: "docker"})
		if err == nil {
			_ = b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), host) {
			t.Errorf("host %q: %v, want an error that names it", host, err)
		}
	}
}

func TestKind(t *testing.T) {
	t.Setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
	k := docker.Kind()
	b, err := k.New(k.NewConfig(), backends.Options{Name: "d", Log: newLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if k.Name != "docker" || b.Name() != "d" || b.Capabilities().BindMounts {
		t.Errorf("kind %s, backend %s, %+v; want that of $DOCKER_HOST", k.Name, b.Name(), b.Capabilities())
	}
}

// fakeEngine answers Check with info, and returns its host.
func fakeEngine(t *testing.T, api string, info system.Info) string {
	t.Helper()
	listener := listenUnix(t)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", api)
		switch {
		case r.URL.Path == "/_ping":
			_, _ = io.WriteString(w, "OK")
		case strings.HasSuffix(r.URL.Path, "/info"):
			_ = json.NewEncoder(w).Encode(info)
		default:
			w.WriteHeader(http.StatusNotImplemented)
		}
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(listener) }()
	t.Cleanup(func() { _ = srv.Close(); <-served })
	return "unix://" + listener.Addr().String()
}

// listenUnix listens on a socket whose path is short.
func listenUnix(t *testing.T) net.Listener {
	t.Helper()
	dir, err := os.MkdirTemp("", "docker")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "engine.sock"))
	if err != nil {
		t.Fatal(err)
	}
	return listener
}
