package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"claude-runner/agent/gateway"
)

// starterEnv makes the test's binary a runner that opens the lease which it
// names, and then waits to be killed.
const starterEnv = "GATEWAY_TEST_STARTER"

type starting struct {
	StateDir, Socket, URL string
}

func starter() {
	var s starting
	if err := json.Unmarshal([]byte(os.Getenv(starterEnv)), &s); err != nil {
		panic(err)
	}
	client, err := gateway.Start(context.Background(), gateway.Options{StateDir: s.StateDir})
	if err == nil {
		err = client.Open(context.Background(), simpleLease(s.Socket, s.URL))
	}
	fmt.Println("opened", err)
	select {}
}

// start starts a client, and ends the daemon with the test.
func start(t *testing.T, dir string) *gateway.Client {
	t.Helper()
	client, err := gateway.Start(t.Context(), gateway.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ids, err := client.Leases(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			if err := client.Close(context.Background(), id.ID); err != nil {
				t.Error(err)
			}
		}
		if err := client.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return client
}

// daemons lists the processes that serve the folder.
func daemons(t testing.TB, dir string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Skip("there is no /proc")
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if strings.HasPrefix(string(line), "claude-runner-gateway\x00"+dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestDaemon(t *testing.T) {
	server, url := upstream(t, `rules: [{answer: [{text: hi}], usage: {input_tokens: 100, output_tokens: 7}}]`, scriptedOptions)
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40)) // longer than a socket's path may be
	l := simpleLease(filepath.Join(t.TempDir(), strings.Repeat("long", 40)), url)
	if err := os.MkdirAll(l.Socket, 0o700); err != nil {
		t.Fatal(err)
	}
	l.Socket = filepath.Join(l.Socket, "socket")
	client := start(t, dir)
	if err := client.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "l")
	if err := os.Symlink(filepath.Dir(l.Socket), link); err != nil {
		t.Fatal(err)
	}
	response, text := do(t, inside(t, filepath.Join(link, "socket")), request(t.Context(), body(true, "hi")))
	if response.StatusCode != http.StatusOK || server.Served().Calls != 1 {
		t.Fatalf("%s %s", response.Status, text)
	}
	if got := totals(t, client); got.Calls != 1 || got.Usage.InputTokens != 100 || got.Usage.OutputTokens != 7 {
		t.Errorf("totals %+v", got)
	}
	if ids, err := client.Leases(t.Context()); err != nil || len(ids) != 1 || ids[0].ID != l.ID {
		t.Errorf("leases %v, %v", ids, err)
	}
	raw(t, filepath.Join(link, "socket"), get("http://one.org/"))
	if list, err := client.Refusals(t.Context(), l.ID, 0); err != nil || len(list) != 1 || list[0].Target != "one.org:80" {
		t.Errorf("refusals %+v, %v", list, err)
	}
	if _, err := client.Refusals(t.Context(), "nobody", 0); !errors.Is(err, gateway.ErrNoLease) {
		t.Errorf("%v", err)
	}
	if err := client.Open(t.Context(), gateway.Lease{ID: "bad"}); !errors.Is(err, gateway.ErrInvalidLease) {
		t.Errorf("%v", err)
	}
	// Without the key nobody is answered.
	control := filepath.Join(t.TempDir(), "c")
	if err := os.Symlink(filepath.Join(dir, "gateway.v1.sock"), control); err != nil {
		t.Fatal(err)
	}
	question, _ := http.NewRequest(http.MethodPost, "http://gateway/leases", strings.NewReader("{}"))
	if response, text := do(t, inside(t, control), question); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("without the key: %s %s", response.Status, text)
	}
	for _, name := range []string{"gateway.v1.sock", "gateway.v1.key", "gateway.v1.lock", "gateway.v1.log"} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	for _, pid := range daemons(t, dir) {
		for _, file := range []string{"environ", "cmdline"} {
			if data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file)); strings.Contains(string(data), key) || strings.Contains(string(data), token) {
				t.Errorf("%s of the daemon has a secret", file)
			}
		}
	}
}

func TestTwoClientsHaveOneDaemon(t *testing.T) {
	dir := t.TempDir()
	clients := make([]*gateway.Client, 4)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			var err error
			if clients[i], err = gateway.Start(t.Context(), gateway.Options{StateDir: dir}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	waitFor(t, "one daemon", func() bool { return len(daemons(t, dir)) == 1 })
	for _, client := range clients {
		if err := client.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	waitFor(t, "no daemon", func() bool { return len(daemons(t, dir)) == 0 })
}

func TestDaemonEndsWithTheLastClient(t *testing.T) {
	dir := t.TempDir()
	client, err := gateway.Start(t.Context(), gateway.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the daemon's end", func() bool { return len(daemons(t, dir)) == 0 })
	if entries, _ := filepath.Glob(filepath.Join(dir, "*.sock")); len(entries) > 0 {
		t.Errorf("left: %v", entries)
	}
}

// The lease works again, by itself, after the daemon was killed, and what was
// counted before still counts.
func TestDaemonIsStartedAgain(t *testing.T) {
	_, url := upstream(t, `rules: [{answer: [{text: hi}]}]`, scriptedOptions)
	dir := t.TempDir()
	client := start(t, dir)
	l := simpleLease(filepath.Join(t.TempDir(), "s"), url)
	if err := client.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if response, text := do(t, inside(t, l.Socket), request(t.Context(), body(false, "hi"))); response.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", response.Status, text)
	}
	waitFor(t, "the count to be written down", func() bool {
		data, _ := os.ReadFile(filepath.Join(dir, "gateway.v1.json"))
		return strings.Contains(string(data), `"Calls":1`)
	})
	signal(t, daemons(t, dir), syscall.SIGKILL)
	sandbox := inside(t, l.Socket)
	waitFor(t, "an answer", func() bool {
		response, err := sandbox.Do(request(t.Context(), body(false, "hi")))
		if err != nil {
			return false
		}
		defer response.Body.Close()
		_, _ = io.ReadAll(response.Body)
		return response.StatusCode == http.StatusOK
	})
	if got := totals(t, client); got.Calls != 2 || got.ByModel[model].Calls != 2 {
		t.Errorf("totals %+v: those before are lost", got)
	}
}

// A close comes behind the opening of its lease, though who opened it has not
// waited for that.
func TestCloseOfWhatIsBeingOpened(t *testing.T) {
	dir := t.TempDir()
	client := start(t, dir)
	l := simpleLease(filepath.Join(t.TempDir(), "s"), "http://127.0.0.1:1")
	for range 50 {
		all := daemons(t, dir)
		signal(t, all, syscall.SIGSTOP)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if err := client.Open(ctx, l); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("open: %v", err)
		}
		if err := client.Close(ctx, l.ID); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "still being opened") {
			t.Errorf("close: %v", err)
		}
		cancel()
		closed := make(chan error, 1)
		go func() { closed <- client.Close(t.Context(), l.ID) }()
		signal(t, all, syscall.SIGCONT)
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		if ids, err := client.Leases(t.Context()); err != nil || len(ids) > 0 {
			t.Fatalf("leases %v, %v", ids, err)
		}
	}
}

func signal(t *testing.T, pids []int, s syscall.Signal) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
}

// A stream that is on its way when the runner is killed goes on, and is counted.
func TestStarterIsKilled(t *testing.T) {
	_, url := upstream(t, `
rules:
  - chunk_delay: 20ms
    answer: [{text: "0123456789012345678901234567890123456789", chunk: 1}]
    usage: {input_tokens: 50, output_tokens: 40}`, scriptedOptions)
	s := starting{StateDir: t.TempDir(), Socket: filepath.Join(t.TempDir(), "s"), URL: url}
	data, _ := json.Marshal(s)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runner := exec.Command(self)
	runner.Env = append(os.Environ(), starterEnv+"="+string(data))
	stdout, err := runner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := runner.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, len("opened <nil>"))
	if _, err := io.ReadFull(stdout, said); err != nil || string(said) != "opened <nil>" {
		t.Fatalf("%s %v", said, err)
	}
	response, err := inside(t, s.Socket).Do(request(t.Context(), body(true, "hi")))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(response.Body, first); err != nil {
		t.Fatal(err)
	}
	if err := runner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = runner.Wait()
	rest, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(rest), "message_stop") {
		t.Errorf("the stream was cut: %v\n%s", err, rest)
	}
	client := start(t, s.StateDir)
	if got := totals(t, client); got.Calls != 1 || got.Cut != 0 || got.Usage.OutputTokens != 40 {
		t.Errorf("totals %+v", got)
	}
	if ids, err := client.Leases(t.Context()); err != nil || len(ids) != 1 {
		t.Errorf("leases %v, %v", ids, err)
	}
}
