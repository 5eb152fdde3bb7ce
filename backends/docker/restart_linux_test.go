package docker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/docker"
)

// dockerd is an engine of the test's own, which it may stop and start. It lives
// in a network namespace of its own, where it can not touch the networks of
// this host's engine.
type dockerd struct {
	t    *testing.T
	dir  string
	args []string
	cmd  *exec.Cmd
	log  *os.File
	cli  *client.Client
}

func newDockerd(t *testing.T, args ...string) *dockerd {
	t.Helper()
	engineClient(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can start an engine")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("there is no program to start an engine with: ", err)
	}
	dir, err := os.MkdirTemp("", "dockerd")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // for engines that remap users
		t.Fatal(err)
	}
	d := &dockerd{t: t, dir: dir, args: args}
	if d.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	if d.cli, err = client.NewClientWithOpts(client.WithHost(d.host()), client.WithAPIVersionNegotiation()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.remove)
	d.start()
	return d
}

// newDockerdWith starts an engine with more runtimes than its own.
func newDockerdWith(t *testing.T, runtimes map[string]any) *dockerd {
	t.Helper()
	text, err := json.Marshal(map[string]any{"runtimes": runtimes})
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(config, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return newDockerd(t, "--config-file", config)
}

func (d *dockerd) host() string { return "unix://" + filepath.Join(d.dir, "docker.sock") }

func (d *dockerd) start() {
	d.t.Helper()
	d.cmd = exec.Command("dockerd", append([]string{
		"--host", d.host(), "--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "exec"),
		"--pidfile", filepath.Join(d.dir, "pid"), "--bridge", "none", "--iptables=false", "--ip6tables=false",
	}, d.args...)...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	poll(d.t, "the engine's start", func() bool { _, err := d.cli.Ping(context.Background()); return err == nil })
}

// stop ends the engine with a signal. A kill ends its containerd too, which
// ends by itself otherwise.
func (d *dockerd) stop(signal syscall.Signal) {
	d.t.Helper()
	_ = d.cmd.Process.Signal(signal)
	_ = d.cmd.Wait()
	for _, file := range []string{"pid", "exec/containerd/containerd.pid"} {
		path := filepath.Join(d.dir, file)
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the engine has removed it
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && pid != d.cmd.Process.Pid {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = os.Remove(path)
	}
}

// remove ends the engine and removes what there is of it.
func (d *dockerd) remove() {
	d.stop(syscall.SIGTERM)
	_ = d.cli.Close()
	if d.t.Failed() { // with the last of what the engine said
		_, _ = d.log.Seek(0, io.SeekStart)
		text, _ := io.ReadAll(d.log)
		d.t.Logf("%s", text[max(0, len(text)-8<<10):])
	}
	_ = d.log.Close()
	poll(d.t, "the removal of the engine's files", func() bool {
		mounts, _ := filepath.Glob(filepath.Join(d.dir, "exec/netns/*"))
		for _, m := range append(mounts, filepath.Join(d.dir, "data")) {
			_ = syscall.Unmount(m, syscall.MNT_DETACH)
		}
		return os.RemoveAll(d.dir) == nil
	})
}

// load gives the engine an image of one program.
func (d *dockerd) load(ref string) {
	d.t.Helper()
	version, err := d.cli.ServerVersion(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	layer := tarOf(d.t, "tool", buildTool(d.t, version.Arch))
	answer, err := d.cli.ImageImport(d.t.Context(), image.ImportSource{Source: bytes.NewReader(layer), SourceName: "-"}, ref, image.ImportOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	defer answer.Close()
	if _, err := io.Copy(io.Discard, answer); err != nil {
		d.t.Fatal(err)
	}
}

// counter starts a sandbox, on a backend behind a proxy, that counts to 20 and,
// when goOn is called, to the end. Nothing is on its way in between, which an
// engine's end would lose.
func (d *dockerd) counter(to int) (sb backends.Sandbox, p *proxy, goOn func()) {
	d.t.Helper()
	d.load("tool")
	p = newProxy(d.t, filepath.Join(d.dir, "docker.sock"))
	b := newBackend(d.t, docker.Config{Host: p.host}, "restart")
	d.t.Cleanup(func() { _ = b.Close() })
	dir := backendtest.OwnedDir(d.t, testUser())
	sb, err := b.Start(d.t.Context(), backends.Spec{
		Name: "counter", Image: "tool", Pull: backends.PullNever, Argv: []string{"/tool", "count", "20", strconv.Itoa(to), "/w/go"},
		User: testUser(), Mounts: []backends.Mount{{Source: dir, Target: "/w"}}, Network: backends.NetworkNone,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { stop(d.t, sb) })
	expect(d.t, sb.Stdout(), lines(1, 20))
	poll(d.t, "the engine's log", func() bool {
		log, err := d.cli.ContainerLogs(d.t.Context(), sb.Handle().ID, container.LogsOptions{ShowStdout: true})
		if err != nil {
			d.t.Fatal(err)
		}
		defer log.Close()
		var text bytes.Buffer
		_, err = stdcopy.StdCopy(&text, io.Discard, log)
		return err == nil && text.String() == lines(1, 20)
	})
	return sb, p, func() {
		d.t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
			d.t.Error(err)
		}
	}
}

// A sandbox outlives the restart of an engine that lets it.
func TestEngineRestarts(t *testing.T) {
	const to = 20000
	for name, signal := range map[string]syscall.Signal{"in order": syscall.SIGTERM, "after a crash": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			d := newDockerd(t, "--live-restore")
			sb, p, goOn := d.counter(to)
			p.on("/logs$", func(w http.ResponseWriter, r *http.Request, engine http.Handler) {
				goOn() // the backend has found the engine and the container again
				engine.ServeHTTP(w, r)
			})
			d.stop(signal)
			d.start()
			expectEnd(t, sb, lines(21, to), backends.Exit{Code: 3})
		})
	}
}

// An engine that ends its containers when it is stopped says how they ended.
func TestEngineStops(t *testing.T) {
	d := newDockerd(t)
	sb, _, _ := d.counter(100)
	d.stop(syscall.SIGTERM)
	d.start()
	expectEnd(t, sb, "", backends.Exit{Code: -1, Signal: int(syscall.SIGTERM)})
}

// Processes have the user of Spec.User on this host, also where the engine
// gives containers other users.
func TestEngineRemapsUsers(t *testing.T) {
	d := newDockerd(t, "--userns-remap", remapUser(t))
	d.load("tool")
	b := newBackend(t, docker.Config{Host: d.host()}, "remap")
	t.Cleanup(func() { _ = b.Close() })
	user := testUser()
	dir := backendtest.OwnedDir(t, user)
	sb, err := b.Start(t.Context(), backends.Spec{
		Name: "counter", Image: "tool", Pull: backends.PullNever, Argv: []string{"/tool", "touch", "/w/file"},
		User: user, Mounts: []backends.Mount{{Source: dir, Target: "/w"}}, Network: backends.NetworkNone,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, sb) })
	expectEnd(t, sb, "", backends.Exit{})
	info, err := os.Stat(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != user.UID || int(st.Gid) != user.GID {
		t.Errorf("the file belongs to %d:%d, want %d:%d", st.Uid, st.Gid, user.UID, user.GID)
	}
}

// remapUser names a user with subordinate ids.
func remapUser(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/etc/subuid")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	name, _, ok := strings.Cut(string(text), ":")
	if !ok {
		t.Skip("no user of this host has subordinate ids")
	}
	return name
}
