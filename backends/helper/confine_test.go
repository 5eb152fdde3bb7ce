package helper_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"claude-runner/agent/clitest"
	"claude-runner/agent/scripted"
	"claude-runner/backends/helper"
)

// needLandlock skips the test where the kernel has none.
func needLandlock(t testing.TB) {
	t.Helper()
	abi, err := helper.LandlockSupported()
	if err != nil {
		t.Skip(err)
	}
	t.Logf("Landlock ABI %d", abi)
}

// outsideDir is a folder that is below no folder that every sandbox may use, as
// this test's own in /tmp is.
func outsideDir(t testing.TB) string {
	t.Helper()
	for _, top := range []string{"/var/lib", "/srv", os.Getenv("HOME")} {
		if dir, err := os.MkdirTemp(top, "claude-runner-test-"); err == nil {
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			return dir
		}
	}
	t.Skip("no folder outside of /tmp can be written")
	return ""
}

// confinement is two folders of an agent's and one that is nobody's affair.
type confinement struct {
	work, home, other string
	helper.Options
}

func newConfinement(t testing.TB) confinement {
	t.Helper()
	needLandlock(t)
	top := outsideDir(t)
	c := confinement{work: filepath.Join(top, "work"), home: filepath.Join(top, "home"), other: filepath.Join(top, "other")}
	for _, dir := range []string{c.work, c.home, c.other} {
		if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o777); err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{dir, filepath.Join(dir, "sub")} {
			if err := os.Chmod(d, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	c.Confine = &helper.Confinement{ReadWrite: []string{c.work, c.home}}
	return c
}

// script runs a script in the confinement, with its folders as $WORK, $HOME
// and $OTHER.
func (c confinement) script(t testing.TB, script string) (stdout, stderr string, status syscall.WaitStatus) {
	t.Helper()
	cmd := command(t, c.Options, script)
	cmd.Dir = c.work
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "WORK=" + c.work, "HOME=" + c.home, "OTHER=" + c.other}
	cmd.SysProcAttr = unprivileged()
	return run(t, cmd)
}

// unprivileged makes a process nobody's, as the agent is where the runner is
// root: root may look into any process.
func unprivileged() *syscall.SysProcAttr {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(nobody.UID), Gid: uint32(nobody.GID)}}
}

func TestConfinement(t *testing.T) {
	c := newConfinement(t)
	for what, script := range map[string]string{
		"files of its own":                  `echo x > new && cat "$HOME/file" && rm new && ln -s file link && mkdir -p a/b && rm -r a`,
		"moves between its folders":         `echo x > moved && mv moved sub/ && mv sub/moved "$HOME/moved" && ln "$HOME/moved" "$HOME/sub/linked" && rm "$HOME/moved"`,
		"the system's files":                `cat /etc/passwd /proc/self/status /proc/meminfo && ls /usr/bin /sys`,
		"temporary files":                   `f=$(mktemp) && echo x > $f && mv $f sub/ && d=$(mktemp -d) && rmdir $d && echo x > /dev/shm/$$.test && rm /dev/shm/$$.test`,
		"devices":                           `echo x > /dev/null && head -c 3 /dev/zero /dev/urandom && (echo x > /dev/stdout) | cat`,
		"programs, and those it writes":     `printf '#!/bin/sh\necho runs\n' > prog && chmod +x prog && ./prog && env true`,
		"here-documents and pipes":          "cat <<X | tr x y\nxx\nX",
		"signals to processes of its own":   `sleep 60 & kill $! && wait $! || true`,
		"git, which looks at folders above": `command -v git >/dev/null || exit 0; git init -q repo && cd repo && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git log --oneline`,
	} {
		t.Run("allows "+what, func(t *testing.T) {
			if out, errs, status := c.script(t, "set -e; "+script); status != 0 {
				t.Errorf("%s\nstatus %#x, stdout %q, stderr %q", script, status, clip(out), clip(errs))
			}
		})
	}
	sleeper := exec.Command("sleep", "600")
	sleeper.Env = []string{"SECRET=of-another"}
	sleeper.SysProcAttr = unprivileged() // of the same user, as another session's agent
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	for what, script := range map[string]string{
		"reading":                    `cat "$OTHER/file"`,
		"listing":                    `ls "$OTHER"`,
		"writing":                    `echo x > "$OTHER/file"`,
		"making":                     `mkdir "$OTHER/new"`,
		"removing":                   `rm -f "$OTHER/file"; [ ! -e "$OTHER/file" ]`,
		"truncating":                 `truncate -s 0 "$OTHER/file"`,
		"reading by a link":          `ln -s "$OTHER/file" "$WORK/by-link" && cat "$WORK/by-link"`,
		"linking":                    `ln "$OTHER/file" "$WORK/hard"`,
		"moving out":                 `mv "$WORK/file" "$OTHER/stolen"`,
		"reading from a child":       `setsid nohup sh -c 'cat "$OTHER/file"'`,
		"writing system's files":     `echo x > /usr/local/claude-runner-test`,
		"homes of others":            `ls /root || ls /home`,
		"another's environment":      fmt.Sprintf(`tr '\0' '\n' < /proc/%d/environ | grep SECRET`, sleeper.Process.Pid),
		"another's files by /proc":   fmt.Sprintf(`ls /proc/%d/root/ /proc/%d/fd/`, sleeper.Process.Pid, sleeper.Process.Pid),
		"signals to other processes": fmt.Sprintf(`kill -0 %d`, sleeper.Process.Pid),
	} {
		t.Run("refuses "+what, func(t *testing.T) {
			if abi, _ := helper.LandlockSupported(); abi < 6 && strings.Contains(what, "signals") || abi < 3 && what == "truncating" {
				t.Skipf("not held by Landlock ABI %d", abi)
			}
			if out, _, status := c.script(t, script); status == 0 {
				t.Errorf("%s\nsucceeds, and says %q", script, clip(out))
			}
		})
	}
	if text, err := os.ReadFile(filepath.Join(c.other, "file")); string(text) != "text\n" || err != nil {
		t.Errorf("the other's file holds %q, %v", text, err)
	}
	t.Run("the gateway is reached all the same", func(t *testing.T) {
		socket := filepath.Join(c.home, "s")
		httpGateway(t, socket)
		cmd := command(t, helper.Options{Socket: socket, Confine: c.Confine}, "curl -sS http://example.invalid/x")
		cmd.Env = []string{"PATH=/usr/bin:/bin", "http_proxy=http://" + helper.AddressToken}
		if out, errs, _ := run(t, cmd); out != "asked for http://example.invalid/x\n" {
			t.Errorf("curl says %q, stderr %q", out, errs)
		}
	})
	t.Run("a folder that is not there is said", func(t *testing.T) {
		cmd := command(t, helper.Options{Confine: &helper.Confinement{ReadWrite: []string{"/no/such/folder"}}}, "echo started")
		if out, errs, status := run(t, cmd); out != "" || status.ExitStatus() != helper.ExitUsage || !strings.Contains(errs, "/no/such/folder") {
			t.Errorf("status %#x, stdout %q, stderr %q", status, out, errs)
		}
	})
}

func TestExposes(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/srv", link); err != nil {
		t.Fatal(err)
	}
	c := helper.Confinement{ReadWrite: []string{"/srv/data/sessions/a/workspace"}, ReadOnly: []string{link + "/data/templates"}}
	for path, want := range map[string]string{
		"/srv/data":                        "",
		"/srv/data/runner.db":              "",
		"/srv/data/sessions/b/workspace":   "",
		"/srv/data/sessions/a/workspace/x": "/srv/data/sessions/a/workspace",
		"/srv/data/templates/x":            link + "/data/templates",
		"/opt/claude-runner/data":          "/opt",
		"/usr/../opt/data":                 "/opt",
		"/tmp/data":                        "/tmp",
		"/tmpx/data":                       "",
	} {
		if got := c.Exposes(path); got != want {
			t.Errorf("%s is exposed by %q, want %q", path, got, want)
		}
	}
}

// TestConfinedCLI has the real agent write and run things in its workspace and
// its home, and look for what is another's.
func TestConfinedCLI(t *testing.T) {
	c := newConfinement(t)
	script, err := scripted.Parse([]byte(`
rules:
  - match: {message: "go", tool_results: 0}
    answer:
      - tool_use: Bash
        input: {command: "echo made > made && cp made $HOME/kept && mktemp && ls -d /usr/bin && cat made", description: Own}
  - match: {message: "go", tool_results: 1}
    answer:
      - tool_use: Bash
        input: {command: "cat $OTHER/file || echo refused; kill -0 $OTHER_PID || echo spared", description: Other}
  - match: {message: "go", tool_results: 2}
    answer:
      - tool_use: Write
        input: {file_path: "` + c.work + `/written", content: "by the tool"}
  - answer: [{text: done}]
`))
	if err != nil {
		t.Fatal(err)
	}
	server := scripted.New(script, scripted.Options{})
	baseURL, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	cli := clitest.Command(t.Context(), t, c.work, baseURL, map[string]string{
		"HOME": c.home, "OTHER": c.other, "OTHER_PID": fmt.Sprint(os.Getpid()),
	}, "-p", "go", "--dangerously-skip-permissions")
	cmd := commandOf(t, c.Options, cli.Args...)
	cmd.Args = append(cmd.Args[:len(cmd.Args)-len(cli.Args)], append([]string{cli.Path}, cli.Args[1:]...)...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = cli.Dir, cli.Env, cli.SysProcAttr
	out, errs, status := run(t, cmd)
	if status != 0 || !strings.Contains(out, "done") {
		t.Errorf("status %#x, stdout %q, stderr %q", status, clip(out), clip(errs))
	}
	var results []string
	for _, r := range server.Requests() {
		results = append(results, fmt.Sprint(r))
	}
	seen := strings.Join(results, "\n")
	for _, want := range []string{"/usr/bin\nmade", "refused", "spared"} {
		if !strings.Contains(seen, want) {
			t.Errorf("no tool has said %q", want)
		}
	}
	for path, want := range map[string]string{filepath.Join(c.home, "kept"): "made\n", filepath.Join(c.work, "written"): "by the tool"} {
		if text, err := os.ReadFile(path); string(text) != want {
			t.Errorf("the agent's file holds %q, want %q; %v", text, want, err)
		}
	}
	for _, p := range server.Problems() {
		t.Error(p)
	}
}
