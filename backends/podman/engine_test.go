package podman_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/podman"
)

// user is who sandboxes of b are in these tests.
func user(b backends.Backend) backends.User {
	if u := b.Capabilities().FixedUser; u != nil {
		return *u
	}
	if os.Geteuid() == 0 {
		return backends.User{UID: 10001, GID: 10001}
	}
	return backends.User{UID: os.Geteuid(), GID: os.Getegid()}
}

// run starts a shell script that is stopped at the test's end.
func run(t *testing.T, b backends.Backend, script string, edit func(*backends.Spec)) backends.Sandbox {
	t.Helper()
	spec := backends.Spec{
		Name: "engine-test", Image: image, Pull: backends.PullNever, Argv: []string{"sh", "-c", script},
		User: user(b), Network: backends.NetworkNone,
	}
	if edit != nil {
		edit(&spec)
	}
	s, err := b.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Stop(ctx, 0); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	return s
}

// within returns a context that ends before the test's patience does.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestOpenFilesAboveWhatTheServiceMayGive(t *testing.T) {
	b := closing(t, engine(t, podman.Config{}, backends.Options{}))
	if b.Capabilities().FixedUser == nil {
		t.Skip("root may give any number")
	}
	const wanted = 1 << 30
	s := run(t, b, "ulimit -Hn", func(spec *backends.Spec) { spec.Limits.OpenFiles = wanted })
	out, err := io.ReadAll(s.Stdout())
	if n, bad := strconv.Atoi(strings.TrimSpace(string(out))); err != nil || bad != nil || n >= wanted {
		t.Errorf("the limit of open files is %q, %v, want the service's own", out, err)
	}
}

func TestNothingOfTheNetworkIsLeft(t *testing.T) {
	b := closing(t, engine(t, podman.Config{}, backends.Options{}))
	s := run(t, b, "echo ready; exec sleep 86400", func(spec *backends.Spec) { spec.Network = backends.NetworkOpen })
	if line, err := bufio.NewReader(s.Stdout()).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	var found struct {
		State           struct{ Pid, ConmonPid int }
		NetworkSettings struct{ SandboxKey string }
	}
	get(t, "/containers/"+s.Handle().ID+"/json", &found)
	helpers := processes(t, func(args []string) bool {
		switch filepath.Base(args[0]) {
		case "slirp4netns", "pasta", "pasta.avx2", "conmon":
			for _, a := range args[1:] {
				if a == s.Handle().ID || a == fmt.Sprint(found.State.Pid) || a == found.NetworkSettings.SandboxKey {
					return true
				}
			}
		}
		return false
	})
	if len(helpers) == 0 {
		t.Skip("the engine's processes are not to be seen here")
	}
	if err := s.Stop(within(t), time.Second); err != nil {
		t.Fatal(err)
	}
	for pid, args := range helpers {
		if now, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); string(now) == args {
			t.Errorf("after Stop this is left: %q", args)
		}
	}
	if key := found.NetworkSettings.SandboxKey; key != "" {
		if _, err := os.Stat(key); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after Stop the network namespace %s is left: %v", key, err)
		}
	}
}

// processes lists the processes of this host whose arguments match, by pid.
func processes(t *testing.T, match func(args []string) bool) map[int]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]string{}
	for _, f := range files {
		text, _ := os.ReadFile(f) // it may have ended
		if args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"); match(args) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			out[pid] = string(text)
		}
	}
	return out
}

// door is a socket that leads to a service's, and that a test can shut:
// what a backend sees of a service that dies and comes back.
type door struct {
	path, target string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	carriers sync.WaitGroup
}

func newDoor(t *testing.T, target string) *door {
	t.Helper()
	d := &door{path: socketPath(t), target: target, conns: map[net.Conn]bool{}}
	d.open(t)
	t.Cleanup(d.shut)
	return d
}

func (d *door) open(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.listener = l
	d.mu.Unlock()
	d.carriers.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := dial(d.target)
			if err != nil {
				near.Close()
				continue
			}
			d.mu.Lock()
			d.conns[near], d.conns[far] = true, true
			d.mu.Unlock()
			carry := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				_ = to.(interface{ CloseWrite() error }).CloseWrite()
			}
			d.carriers.Go(func() { carry(far, near) })
			d.carriers.Go(func() { carry(near, far) })
		}
	})
}

// shut ends the listener and every connection, whatever is under way.
func (d *door) shut() {
	d.mu.Lock()
	d.listener.Close()
	for c := range d.conns {
		c.Close()
	}
	clear(d.conns)
	d.mu.Unlock()
	d.carriers.Wait()
}

func TestServiceThatDiesLosesNoOutput(t *testing.T) {
	engine(t, podman.Config{}, backends.Options{}).Close()
	for _, c := range []struct {
		name  string
		lines int
		to    string
	}{
		{"with a log that the runner reads", 200_000, serviceAddress()},
		{"with a log that the service reads", 2_000, serve(t, hideLogs(t))},
	} {
		t.Run(c.name, func(t *testing.T) { serviceDies(t, newDoor(t, c.to), c.lines) })
	}
}

func serviceDies(t *testing.T, d *door, lines int) {
	b := closing(t, newBackend(t, podman.Config{Socket: d.path}, backends.Options{}))
	if _, err := backendtest.Check(b); err != nil {
		t.Fatal(err)
	}
	dir := backendtest.OwnedDir(t, user(b))
	script := fmt.Sprintf("seq %d; while [ ! -e /w/go ]; do sleep 0.02; done; seq %d; echo err >&2; exit 3", lines, lines)
	s := run(t, b, script, func(spec *backends.Spec) { spec.Mounts = []backends.Mount{{Source: dir, Target: "/w"}} })
	var want bytes.Buffer
	for range 2 {
		for i := range lines {
			fmt.Fprintln(&want, i+1)
		}
	}
	got := make([]byte, 2*lines)
	if _, err := io.ReadFull(s.Stdout(), got); err != nil {
		t.Fatal(err)
	}
	d.shut()
	if _, err := b.List(within(t)); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("List while the service is away: %v, want ErrUnavailable", err)
	}
	d.open(t)
	middle := make([]byte, want.Len()/2-len(got))
	if _, err := io.ReadFull(s.Stdout(), middle); err != nil {
		t.Fatalf("after the service is back: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(s.Stdout())
	if err != nil {
		t.Errorf("read to the end: %v", err)
	}
	if got = slices.Concat(got, middle, rest); !bytes.Equal(got, want.Bytes()) {
		t.Errorf("read %d bytes, which are not the %d that were written", len(got), want.Len())
	}
	exit, err := s.Wait(within(t))
	if want := (backends.Exit{Code: 3}); err != nil || exit != want {
		t.Errorf("ended with %+v, %v, want %+v", exit, err, want)
	}
	if text, _ := io.ReadAll(s.Stderr()); string(text) != "err\n" {
		t.Errorf("stderr %q", text)
	}
}

// hideLogs is the real service, but for the paths of the containers' logs: what
// a backend sees whose runner may not read them.
func hideLogs(t *testing.T) http.Handler {
	to, err := url.Parse("http://podman")
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.FlushInterval = -1
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	proxy.Transport = transport(serviceAddress())
	logPath := regexp.MustCompile(`"Path":"[^"]*/ctr.log"`)
	proxy.ModifyResponse = func(r *http.Response) error {
		if !strings.HasSuffix(r.Request.URL.Path, "/json") {
			return nil
		}
		text, err := io.ReadAll(r.Body)
		r.Body.Close()
		text = logPath.ReplaceAll(text, []byte(`"Path":"/nowhere/ctr.log"`))
		r.Body = io.NopCloser(bytes.NewReader(text))
		r.ContentLength = int64(len(text))
		r.Header.Set("Content-Length", fmt.Sprint(len(text)))
		return err
	}
	return proxy
}

func TestContainerThatSomebodyElseRemoves(t *testing.T) {
	b := closing(t, engine(t, podman.Config{}, backends.Options{}))
	s := run(t, b, "echo ready; exec sleep 86400", nil)
	if line, err := bufio.NewReader(s.Stdout()).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	request(t, "DELETE", "/containers/"+s.Handle().ID+"?force=true&timeout=0", nil, nil)
	// Where the removal was quick, its outcome is not known any more.
	if exit, err := s.Wait(within(t)); !errors.Is(err, backends.ErrNotFound) && (err != nil || exit.Signal != 9) {
		t.Errorf("Wait: %+v, %v, want signal 9 or ErrNotFound", exit, err)
	}
	if rest, err := io.ReadAll(s.Stdout()); err != nil || len(rest) > 0 {
		t.Errorf("the rest of the output: %q, %v", rest, err)
	}
	if err := s.Stop(within(t), time.Second); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

// A runner that dies in the middle of a start leaves a container that no
// process ever ran in.
func TestRecoverOfWhatWasNeverStarted(t *testing.T) {
	b := closing(t, engine(t, podman.Config{}, backends.Options{}))
	request(t, "POST", "/containers/create", map[string]any{
		"image": image, "command": []string{"true"}, "labels": map[string]string{
			backends.LabelManaged: "true", backends.LabelInstance: instance(t), "claude-runner.sandbox": `{"name":"half","start":"x"}`,
		},
	}, nil)
	listed, err := b.List(within(t))
	if err != nil || len(listed) != 1 || listed[0].Name != "half" {
		t.Fatalf("List: %+v, %v", listed, err)
	}
	if _, err := b.Recover(within(t), listed[0], 0); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("Recover: %v, want ErrNotFound", err)
	}
	if left := containers(t, instance(t)); len(left) > 0 {
		t.Errorf("after Recover this is left: %v", left)
	}
}
