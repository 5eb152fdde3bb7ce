package local_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"claude-runner/backends"
	"claude-runner/backends/local"
)

// runnerVar turns this test's program into a runner that starts one sandbox:
// its value is a runnerOrder.
const runnerVar = "LOCALTEST_RUNNER"

type runnerOrder struct{ StateDir, Script string }

// runRunner starts a sandbox, prints its handle, and waits to be killed.
func runRunner(text string) {
	var o runnerOrder
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		var h backends.Handle
		if h, err = startOne(o); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(h)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func startOne(o runnerOrder) (backends.Handle, error) {
	b, err := local.New(local.Config{}, options(o.StateDir))
	if err != nil {
		return backends.Handle{}, err
	}
	sb, err := b.Start(context.Background(), shell(o.Script))
	if err != nil {
		return backends.Handle{}, err
	}
	return sb.Handle(), nil
}

// startRunner starts another process that starts a sandbox.
func startRunner(t *testing.T, stateDir, script string) (cmd *exec.Cmd, stdout io.Reader) {
	t.Helper()
	order, err := json.Marshal(runnerOrder{StateDir: stateDir, Script: script})
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(program)
	cmd.Env = append(os.Environ(), runnerVar+"="+string(order))
	cmd.Stderr = os.Stderr
	if _, err = cmd.StdinPipe(); err != nil { // its end would end the runner
		t.Fatal(err)
	}
	if stdout, err = cmd.StdoutPipe(); err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, stdout
}

// kill kills a runner and waits for its end.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

func TestSandboxOutlivesAKilledRunner(t *testing.T) {
	stateDir := filepath.Join(t.TempDir(), "state")
	cmd, stdout := startRunner(t, stateDir, "echo one; cat; echo two; echo err >&2; exit 9")
	var h backends.Handle
	if err := json.NewDecoder(stdout).Decode(&h); err != nil {
		t.Fatal(err)
	}
	kill(t, cmd)

	b := newBackend(t, stateDir)
	defer b.Close()
	sb, err := b.Recover(within(t), h, 0)
	if err != nil {
		t.Fatalf("Recover: %v", err)
	}
	out, err := io.ReadAll(sb.Stdout())
	if err != nil || string(out) != "one\ntwo\n" {
		t.Errorf("output %q, %v", out, err)
	}
	if exit, err := sb.Wait(within(t)); err != nil || exit != (backends.Exit{Code: 9}) {
		t.Errorf("Wait: %+v, %v", exit, err)
	}
	if stderr, _ := io.ReadAll(sb.Stderr()); string(stderr) != "err\n" {
		t.Errorf("stderr %q", stderr)
	}
	if err := sb.Stop(within(t), 0); err != nil {
		t.Errorf("Stop: %v", err)
	}
	expectEmpty(t, stateDir)
}

// TestRunnerKilledWhileStarting kills a runner at moments spread over its
// start: either there is nothing, or a sandbox that List names.
func TestRunnerKilledWhileStarting(t *testing.T) {
	stateDir := filepath.Join(t.TempDir(), "state")
	const script = "exec sleep 86402.5"
	began := time.Now()
	cmd, stdout := startRunner(t, stateDir, script)
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(began)
	kill(t, cmd)

	b := newBackend(t, stateDir)
	defer b.Close()
	const moments = 12
	for i := range moments {
		stopAll(t, b)
		cmd, _ := startRunner(t, stateDir, script)
		time.Sleep(whole * time.Duration(i) / moments)
		kill(t, cmd)
		eventually(t, "no keeper, or a sandbox with a record", func() bool {
			handles, err := b.List(within(t))
			return err == nil && (len(handles) > 0 || len(processes(t, stateDir)) == 0)
		})
	}
	stopAll(t, b)
	if left := processes(t, "86402.5"); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	// What a killed runner left half-made does not hinder the next.
	sb, err := b.Start(within(t), shell(script))
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	if err := sb.Stop(within(t), 0); err != nil {
		t.Errorf("Stop: %v", err)
	}
	expectEmpty(t, stateDir)
}

func TestKilledKeeper(t *testing.T) {
	stateDir := filepath.Join(t.TempDir(), "state")
	b, sb := start(t, stateDir, shell(`setsid sleep 86403.5 & (setsid sh -c 'sleep 86403.5 & sleep 86403.5' &); sleep 0.1; echo ready; exec sleep 86403.5`))
	expectOutput(t, sb.Stdout(), "ready\n")
	signalKeeper(t, sb, syscall.SIGKILL)

	if rest, err := io.ReadAll(sb.Stdout()); err != nil || len(rest) > 0 {
		t.Errorf("after the keeper's end the output is %q, %v", rest, err)
	}
	if exit, err := sb.Wait(within(t)); err == nil {
		t.Errorf("Wait knows %+v, which nobody has written down", exit)
	}
	if handles, err := b.List(within(t)); err != nil || len(handles) != 1 {
		t.Errorf("List: %v, %v, want the sandbox", handles, err)
	}
	if err := sb.Stop(within(t), 0); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if left := processes(t, "86403.5"); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	expectEmpty(t, stateDir)
}

func TestStuckKeeper(t *testing.T) {
	t.Parallel() // for its ten seconds
	stateDir := filepath.Join(t.TempDir(), "state")
	_, sb := start(t, stateDir, shell("setsid sleep 86404.5 & echo ready; exec sleep 86404.5"))
	expectOutput(t, sb.Stdout(), "ready\n")
	signalKeeper(t, sb, syscall.SIGSTOP)
	if err := sb.Stop(within(t), 0); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if left := processes(t, "86404.5"); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	expectEmpty(t, stateDir)
}

// TestTerminatedKeeper is what happens when a service manager ends everything.
func TestTerminatedKeeper(t *testing.T) {
	stateDir := filepath.Join(t.TempDir(), "state")
	_, sb := start(t, stateDir, shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done"))
	expectOutput(t, sb.Stdout(), "ready\n")
	signalKeeper(t, sb, syscall.SIGHUP) // means nothing
	signalKeeper(t, sb, syscall.SIGTERM)
	if _, err := io.ReadAll(sb.Stdout()); err != nil {
		t.Error(err)
	}
	if exit, err := sb.Wait(within(t)); err != nil || exit != (backends.Exit{Code: 3, Stopped: true}) {
		t.Errorf("Wait: %+v, %v", exit, err)
	}
}

// TestKeeperHoldsNoForeignFile: a pipe that the runner has from its parent would
// not end with the runner.
func TestKeeperHoldsNoForeignFile(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this system does not say which files a process has open")
	}
	path := filepath.Join(t.TempDir(), "foreign")
	fd, err := syscall.Open(path, syscall.O_CREAT|syscall.O_RDWR, 0o600) // inherited by every child
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	_, sb := start(t, filepath.Join(t.TempDir(), "state"), shell("echo ready; read x"))
	expectOutput(t, sb.Stdout(), "ready\n")
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", keeperOf(t, sb)))
	if err != nil || len(links) == 0 {
		t.Fatalf("the keeper's files: %v, %v", links, err)
	}
	for _, link := range links {
		if file, _ := os.Readlink(link); file == path {
			t.Errorf("the keeper has %s open", file)
		}
	}
}

// TestUnreadOutput holds a writer to a bound where nobody reads.
func TestUnreadOutput(t *testing.T) {
	const window, slack = 64 << 20, 1 << 20
	stateDir := filepath.Join(t.TempDir(), "state")
	_, sb := start(t, stateDir, shell("exec cat /dev/zero"))
	size := func() int64 {
		info, err := os.Stat(filepath.Join(stateDir, "sandbox", "stdout"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	eventually(t, "a full window", func() bool { return size() >= window })
	if n := size(); n > window+slack {
		t.Errorf("%d bytes are written down and none is read, want at most %d", n, window+slack)
	}
	const part = 16 << 20
	if _, err := io.CopyN(io.Discard, sb.Stdout(), part); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a window that has moved", func() bool { return size() >= window+part-slack })
	if n := size(); n > window+part+slack {
		t.Errorf("%d bytes are written down and %d are read", n, part)
	}
}

// TestFullDisk fills the file system that output is written to.
func TestFullDisk(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("mounting a small file system takes root on Linux")
	}
	stateDir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", stateDir).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", stateDir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	_, sb := start(t, stateDir, shell("head -c 10000000 /dev/zero; sleep 86405.5"))
	n, err := io.Copy(io.Discard, sb.Stdout())
	if err != nil || n == 0 || n > 1<<20 {
		t.Errorf("read %d bytes, %v, want what the disk holds", n, err)
	}
	if exit, err := sb.Wait(within(t)); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("Wait: %+v, %v, want an error that says why output is lost", exit, err)
	}
	if err := sb.Stop(within(t), 0); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if left := processes(t, "86405.5"); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
}

// signalKeeper sends a signal to a sandbox's keeper.
func signalKeeper(t *testing.T, sb backends.Sandbox, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(keeperOf(t, sb), s); err != nil {
		t.Fatal(err)
	}
}

// keeperOf is the process id of a sandbox's keeper.
func keeperOf(t *testing.T, sb backends.Sandbox) int {
	t.Helper()
	var data struct{ Keeper int }
	if err := json.Unmarshal(sb.Handle().Data, &data); err != nil {
		t.Fatal(err)
	}
	return data.Keeper
}

// stopAll stops every sandbox that b lists.
func stopAll(t *testing.T, b backends.Backend) {
	t.Helper()
	handles, err := b.List(within(t))
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	for _, h := range handles {
		sb, err := b.Recover(within(t), h, 0)
		if errors.Is(err, backends.ErrNotFound) {
			continue
		}
		if err != nil {
			t.Fatalf("Recover: %v", err)
		}
		if err := sb.Stop(within(t), 0); err != nil {
			t.Fatalf("Stop: %v", err)
		}
	}
}

// expectEmpty fails the test when anything is in dir.
func expectEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: %s", filepath.Join(dir, e.Name()))
	}
}
