package docker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/client"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/docker"
)

// rig is a backend behind a proxy, and a folder that its sandboxes mount at /w.
type rig struct {
	t        *testing.T
	cli      *client.Client
	proxy    *proxy
	backend  backends.Backend
	instance string
	dir      string
}

// testUser is who sandboxes run as: the test's own user, unless that is root.
func testUser() backends.User {
	if os.Geteuid() != 0 {
		return backends.User{UID: os.Geteuid(), GID: os.Getegid()}
	}
	return backends.User{UID: 10001, GID: 10001}
}

func newRig(t *testing.T) *rig {
	cli := engineClient(t)
	socket, ok := strings.CutPrefix(cli.DaemonHost(), "unix://")
	if !ok {
		t.Skip("this host's engine does not listen on a unix socket")
	}
	r := &rig{t: t, cli: cli, instance: "test-" + filepath.Base(filepath.Dir(t.TempDir())), dir: backendtest.OwnedDir(t, testUser())}
	t.Cleanup(func() {
		for _, c := range containersOf(t, cli, r.instance) {
			t.Errorf("left behind: %s", c)
		}
	})
	r.proxy = newProxy(t, socket)
	r.backend = newBackend(t, docker.Config{Host: r.proxy.host}, r.instance)
	t.Cleanup(func() {
		if err := r.backend.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

func (r *rig) spec(script string) backends.Spec {
	return backends.Spec{
		Name: "sandbox", Image: testImage, Pull: backends.PullNever, Argv: []string{"sh", "-c", script}, User: testUser(),
		Mounts: []backends.Mount{{Source: r.dir, Target: "/w"}}, Network: backends.NetworkNone,
	}
}

// start starts a sandbox that is stopped at the test's end.
func (r *rig) start(spec backends.Spec) backends.Sandbox {
	r.t.Helper()
	sb, err := r.backend.Start(r.t.Context(), spec)
	if err != nil {
		r.t.Fatalf("Start: %v", err)
	}
	r.t.Cleanup(func() { stop(r.t, sb) })
	return sb
}

func (r *rig) touch(name string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), nil, 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// await polls for a file that a sandbox makes.
func (r *rig) await(name string) {
	r.t.Helper()
	poll(r.t, name, func() bool { _, err := os.Stat(filepath.Join(r.dir, name)); return err == nil })
}

func stop(t *testing.T, sb backends.Sandbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := sb.Stop(ctx, 0); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func poll(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v, want %q", got, err, want)
	}
}

func expectEnd(t *testing.T, sb backends.Sandbox, rest string, want backends.Exit) {
	t.Helper()
	got, err := io.ReadAll(sb.Stdout())
	if err != nil || string(got) != rest {
		t.Errorf("the rest is %d bytes %.200q, %v, want %d bytes %.200q", len(got), got, err, len(rest), rest)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if exit, err := sb.Wait(ctx); err != nil || exit != want {
		t.Errorf("Wait: %+v, %v, want %+v", exit, err, want)
	}
}

// lines returns the output of seq a b.
func lines(a, b int) string {
	var s strings.Builder
	for i := a; i <= b; i++ {
		fmt.Fprintln(&s, i)
	}
	return s.String()
}

const untilGo = "while [ ! -e /w/go ]; do sleep 0.02; done; "

// The output goes on from the engine's log where the attached connection breaks.
func TestAttachBreaksWhileRunning(t *testing.T) {
	r := newRig(t)
	sb := r.start(r.spec("seq 1 30000; echo err >&2; " + untilGo + "seq 30001 60000; exit 3"))
	expect(t, sb.Stdout(), lines(1, 20000))
	if r.proxy.cut("/attach$") == 0 {
		t.Fatal("there is no attached connection to cut")
	}
	expect(t, sb.Stdout(), lines(20001, 30000))
	r.touch("go")
	expectEnd(t, sb, lines(30001, 60000), backends.Exit{Code: 3})
	if got, _ := io.ReadAll(sb.Stderr()); string(got) != "err\n" {
		t.Errorf("stderr %q, want it once", got)
	}
}

// Nobody knows whether an engine that was away has all the output of a sandbox
// that ended meanwhile.
func TestEngineIsAwayAtTheEnd(t *testing.T) {
	r := newRig(t)
	sb := r.start(r.spec("seq 1 1000; " + untilGo + "seq 1001 2000"))
	expect(t, sb.Stdout(), lines(1, 1000))
	r.proxy.dead()
	r.touch("go")
	poll(t, "the end", func() bool {
		c, err := r.cli.ContainerInspect(t.Context(), sb.Handle().ID)
		return err == nil && !c.State.Running
	})
	r.proxy.off()
	if rest, err := io.ReadAll(sb.Stdout()); err == nil || !strings.HasPrefix(lines(1001, 2000), string(rest)) {
		t.Errorf("the rest is %.200q, %v, want an error", rest, err)
	}
	if exit, err := sb.Wait(t.Context()); err == nil {
		t.Errorf("Wait: %+v, want an error", exit)
	}
}

// An engine that was away while the sandbox ran has its output.
func TestEngineIsAwayMeanwhile(t *testing.T) {
	r := newRig(t)
	sb := r.start(r.spec("seq 1 1000; " + untilGo + "seq 1001 2000; touch /w/more; while [ ! -e /w/end ]; do sleep 0.02; done; seq 2001 3000; kill -9 $$"))
	expect(t, sb.Stdout(), lines(1, 1000))
	r.proxy.dead()
	r.touch("go")
	r.await("more")
	r.proxy.off()
	expect(t, sb.Stdout(), lines(1001, 2000))
	r.touch("end")
	expectEnd(t, sb, lines(2001, 3000), backends.Exit{Code: -1, Signal: 9})
}

// A time-out is held while the engine can not be reached, as soon as it can.
func TestEngineIsAwayAtTheTimeout(t *testing.T) {
	r := newRig(t)
	spec := r.spec("echo ready; exec sleep 600")
	spec.Timeout = time.Second
	sb := r.start(spec)
	expect(t, sb.Stdout(), "ready\n")
	var refused sync.Once
	kill := make(chan struct{})
	r.proxy.on("/kill$", func(http.ResponseWriter, *http.Request, http.Handler) {
		refused.Do(func() { close(kill) })
		panic(http.ErrAbortHandler)
	})
	<-kill
	r.proxy.off()
	expectEnd(t, sb, "", backends.Exit{Code: -1, Signal: 9, TimedOut: true})
}

// A log that is not what was read before makes the outcome unknown.
func TestLogDiffers(t *testing.T) {
	for what, change := range map[string]func([]byte) []byte{
		"changed": func(b []byte) []byte { return bytes.Replace(b, []byte("500"), []byte("5x0"), 1) },
		"lost":    func(b []byte) []byte { return nil },
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			sb := r.start(r.spec("seq 1 1000; " + untilGo))
			expect(t, sb.Stdout(), lines(1, 1000))
			r.proxy.on("/logs$", func(w http.ResponseWriter, req *http.Request, engine http.Handler) {
				q := req.URL.Query()
				q.Del("follow")
				req.URL.RawQuery = q.Encode()
				answer := httptest.NewRecorder()
				engine.ServeHTTP(answer, req)
				_, _ = w.Write(change(answer.Body.Bytes()))
			})
			r.proxy.cut("/attach$")
			r.touch("go")
			got, err := io.ReadAll(sb.Stdout())
			if err == nil || len(got) > 0 {
				t.Errorf("the rest is %q, %v, want an error and nothing else", got, err)
			}
			if exit, err := sb.Wait(t.Context()); err == nil {
				t.Errorf("Wait: %+v, want an error", exit)
			}
		})
	}
}

// A container that somebody else removed is an outcome that nobody knows.
func TestContainerIsRemoved(t *testing.T) {
	r := newRig(t)
	sb := r.start(r.spec("echo ready; exec sleep 600"))
	expect(t, sb.Stdout(), "ready\n")
	r.proxy.dead()
	if err := removeContainer(r.cli, sb.Handle().ID); err != nil {
		t.Fatal(err)
	}
	r.proxy.off()
	if _, err := io.ReadAll(sb.Stdout()); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("Stdout ends with %v, want %v", err, backends.ErrNotFound)
	}
	if exit, err := sb.Wait(t.Context()); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("Wait: %+v, %v, want %v", exit, err, backends.ErrNotFound)
	}
}

// A container that a runner made and did not live to start can be cleared away.
func TestRecoverNeverStarted(t *testing.T) {
	r := newRig(t)
	model, err := r.cli.ContainerInspect(t.Context(), r.start(r.spec("read x")).Handle().ID)
	if err != nil {
		t.Fatal(err)
	}
	made, err := r.cli.ContainerCreate(t.Context(), model.Config, model.HostConfig, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	handles, err := r.backend.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(handles, func(h backends.Handle) bool { return h.ID == made.ID })
	if i < 0 {
		t.Fatalf("List has %+v, not the container that was made", handles)
	}
	sb, err := r.backend.Recover(t.Context(), handles[i], 0)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(sb.Stdout()); err == nil || len(out) > 0 {
		t.Errorf("Stdout: %q, %v, want an error", out, err)
	}
	if exit, err := sb.Wait(t.Context()); err == nil {
		t.Errorf("Wait: %+v, want an error", exit)
	}
	stop(t, sb)
}

// A container whose creation nobody was told of does not stay.
func TestCreateAnswerIsLost(t *testing.T) {
	r := newRig(t)
	r.proxy.on("/containers/create$", swallow)
	if _, err := r.backend.Start(t.Context(), r.spec("exit 0")); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("Start: %v, want %v", err, backends.ErrUnavailable)
	}
}

// A container that is made after the caller has gone does not stay.
func TestCancelledDuringCreate(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.proxy.on("/containers/create$", func(w http.ResponseWriter, req *http.Request, engine http.Handler) {
		cancel()
		engine.ServeHTTP(w, req)
	})
	if _, err := r.backend.Start(ctx, r.spec("exit 0")); !errors.Is(err, context.Canceled) {
		t.Errorf("Start: %v, want %v", err, context.Canceled)
	}
}

// An answer that is lost does not remove another sandbox of that name.
func TestCreateConflictIsLost(t *testing.T) {
	r := newRig(t)
	spec := r.spec("echo ready; read x; exit 4")
	sb := r.start(spec)
	expect(t, sb.Stdout(), "ready\n")
	r.proxy.on("/containers/create$", swallow)
	if _, err := r.backend.Start(t.Context(), spec); err == nil {
		t.Error("a second start succeeded")
	}
	r.proxy.off()
	_, _ = io.WriteString(sb.Stdin(), "end\n")
	expectEnd(t, sb, "", backends.Exit{Code: 4})
}

// An engine that fails after the creation leaves nothing.
func TestStartFails(t *testing.T) {
	for _, request := range []string{"/attach$", "/start$"} {
		t.Run(request, func(t *testing.T) {
			r := newRig(t)
			r.proxy.on(request, swallow)
			if _, err := r.backend.Start(t.Context(), r.spec("sleep 600")); !errors.Is(err, backends.ErrUnavailable) {
				t.Errorf("Start: %v, want %v", err, backends.ErrUnavailable)
			}
		})
	}
}

// Stop succeeds once the engine is there again, and not before.
func TestStopWhileTheEngineIsAway(t *testing.T) {
	r := newRig(t)
	sb := r.start(r.spec("echo ready; exec sleep 600"))
	expect(t, sb.Stdout(), "ready\n")
	r.proxy.dead()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := sb.Stop(ctx, 0); err == nil {
		t.Error("Stop succeeded without an engine")
	}
	r.proxy.off()
	stop(t, sb)
	_, _ = sb.Wait(t.Context()) // it returns, whatever is known of the outcome
}
