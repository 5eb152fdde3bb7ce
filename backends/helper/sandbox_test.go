package helper_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"claude-runner/agent/clitest"
	"claude-runner/agent/scripted"
	"claude-runner/backends"
	"claude-runner/backends/backendtest"
	"claude-runner/backends/docker"
	"claude-runner/backends/helper"
	"claude-runner/backends/local"
	"claude-runner/backends/podman"
)

// image has curl, as every agent's image.
const image = "claude-runner-agent"

// nobody is who sandboxes are where the test is root.
var nobody = backends.User{UID: 10001, GID: 10001}

// TestSandboxes has the helper in front of what runs in real sandboxes.
func TestSandboxes(t *testing.T) {
	for name, kind := range map[string]backends.Kind{"docker": docker.Kind(), "podman": podman.Kind(), "local": local.Kind()} {
		t.Run(name, func(t *testing.T) {
			s := newSandboxes(t, name, kind)
			for what, run := range map[string]func(*testing.T, *sandboxes){
				"the proxy's variable leads to the gateway": throughProxy,
				"the real agent reaches the model by it":    realAgent,
				"the end is the agent's own":                ends,
				"a stop ends the agent and all it started":  stops,
				"TERM reaches the agent":                    terminates,
				"orphans are collected":                     collectsOrphans,
				"stdin's end arrives":                       stdinEnds,
				"64 MiB of output are whole":                muchOutput,
				"the helper can not be written":             notWritable,
				"nothing secret is in arguments":            argumentsHaveNoSecret,
			} {
				t.Run(what, func(t *testing.T) { run(t, s) })
			}
			s.control = true
			for what, run := range map[string]func(*testing.T, *sandboxes){
				"a sweep ends what the agent has left":        sweeps,
				"the real agent rests between turns":          realAgentRests,
				"a resting sandbox is stopped like any other": stopsAtRest,
			} {
				t.Run(what, func(t *testing.T) { run(t, s) })
			}
		})
	}
}

// build makes a helper for a system, where every user can reach it. That for
// Linux runs in any image.
func build(t testing.TB, system string) string {
	t.Helper()
	path := filepath.Join(backendtest.SharedDir(t), "claude-runner-helper")
	cmd := exec.Command("go", "build", "-o", path, "./testdata/program")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the helper: %v\n%s", err, out)
	}
	return path
}

// sandboxes starts sandboxes with a helper on one backend.
type sandboxes struct {
	backend backends.Backend
	caps    backends.Capabilities
	user    backends.User
	helper  *helper.Program
	control bool // the helpers' Options.Control
	count   int
}

func newSandboxes(t *testing.T, name string, kind backends.Kind) *sandboxes {
	t.Helper()
	b, err := kind.New(kind.NewConfig(), backends.Options{
		Name: name, Instance: fmt.Sprint("helpertest-", os.Getpid()), StateDir: filepath.Join(t.TempDir(), "state"), User: nobody,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	_, err = backendtest.Check(b)
	backendtest.Require(t, name, err)
	s := &sandboxes{backend: b, caps: b.Capabilities(), user: nobody}
	system := runtime.GOOS
	if s.caps.Images {
		system = "linux"
	}
	s.helper = helper.At(build(t, system))
	if s.caps.FixedUser != nil {
		s.user = *s.caps.FixedUser
	} else if uid := os.Geteuid(); uid != 0 {
		s.user = backends.User{UID: uid, GID: os.Getegid()}
	}
	return s
}

// start starts a script behind a helper, and returns the sandbox and the host's
// path of its folder, the script's $W, where the helper looks for gateway.sock.
func (s *sandboxes) start(t *testing.T, script string, env map[string]string) (backends.Sandbox, string) {
	t.Helper()
	m := backends.Mount{Source: backendtest.OwnedDir(t, s.user), Target: "/run/runner"}
	s.count++
	spec := backends.Spec{
		Name: fmt.Sprintf("helper-%d-%d", os.Getpid(), s.count), Image: image, Pull: backends.PullNever, User: s.user,
		Env: map[string]string{"W": s.caps.Path(m)}, Mounts: []backends.Mount{m},
		Limits: backends.Limits{Tmpfs: map[string]int64{"/tmp": 64 << 20}},
	}
	for k, v := range env {
		spec.Env[k] = strings.ReplaceAll(v, m.Target, s.caps.Path(m))
	}
	if slices.Contains(s.caps.Networks, backends.NetworkNone) {
		spec.Network = backends.NetworkNone
	}
	o := helper.Options{Socket: s.caps.Path(m) + "/gateway.sock", Control: s.control}
	if _, err := helper.LandlockSupported(); err == nil { // where it is the backend's part, it makes no difference
		o.Confine = &helper.Confinement{ReadWrite: []string{m.Source}}
	}
	argv, mounts, err := s.helper.Command(s.caps, []string{"sh", "-c", script}, o)
	if err != nil {
		t.Fatal(err)
	}
	spec.Argv, spec.Mounts = argv, append(spec.Mounts, mounts...)
	sb, err := s.backend.Start(t.Context(), spec)
	if errors.Is(err, backends.ErrImageNotFound) {
		t.Skipf("make image gives every engine the agent's image: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, sb, 0) })
	return sb, m.Source
}

// result is what came of a sandbox.
type result struct {
	out, errs string
	exit      backends.Exit
}

// finish closes a sandbox's standard input and waits for its end.
func finish(t *testing.T, sb backends.Sandbox) result {
	t.Helper()
	_ = sb.Stdin().Close() // what has ended may refuse
	late := time.AfterFunc(patience, func() { _ = sb.Stop(context.Background(), 0) })
	defer late.Stop()
	out, err := io.ReadAll(sb.Stdout())
	if err != nil {
		t.Fatal(err)
	}
	exit, err := sb.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	errs, _ := io.ReadAll(sb.Stderr())
	return result{string(out), string(errs), exit}
}

func stop(t *testing.T, sb backends.Sandbox, grace time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := sb.Stop(ctx, grace); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

// says starts a script and fails the test unless it ends with code 0 and says want.
func (s *sandboxes) says(t *testing.T, script, want string) {
	t.Helper()
	sb, _ := s.start(t, script, nil)
	if r := finish(t, sb); r.out != want || r.exit != (backends.Exit{}) {
		t.Errorf("%s\nsays %q, want %q; stderr %q, exit %+v", script, clip(r.out), clip(want), clip(r.errs), r.exit)
	}
}

func ready(t *testing.T, sb backends.Sandbox) {
	t.Helper()
	got := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(sb.Stdout(), got); err != nil || string(got) != "ready\n" {
		t.Fatalf("read %q, %v", got, err)
	}
}

func throughProxy(t *testing.T, s *sandboxes) {
	if !s.caps.Sockets {
		t.Skip("Capabilities.Sockets is false")
	}
	sb, dir := s.start(t, "read x; curl -sS http://example.invalid:81/path", map[string]string{"http_proxy": "http://" + helper.AddressToken})
	httpGateway(t, filepath.Join(dir, "gateway.sock")) // which the helper finds when it is needed
	if r := finish(t, sb); r.out != "asked for http://example.invalid:81/path\n" {
		t.Errorf("curl says %q, stderr %q, exit %+v", r.out, r.errs, r.exit)
	}
}

// realAgent has the real CLI call a tool, with no network but the helper's.
func realAgent(t *testing.T, s *sandboxes) {
	if !s.caps.Sockets {
		t.Skip("Capabilities.Sockets is false")
	}
	model := scripted.New(scripted.MustParse(`
rules:
  - match: {message: "go", tool_results: 0}
    answer: [{tool_use: Bash, input: {command: "echo $((6*7)); curl -sS http://example.invalid/x", description: Try}}]
  - answer: [{text: "It says {{trim .LastToolResult}}."}]
`), scripted.Options{})
	defer model.Close()
	sb, dir := s.start(t, `read x; cd $W && exec claude -p go --dangerously-skip-permissions`, s.agentEnv(t))
	serve(t, filepath.Join(dir, "gateway.sock"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "" { // as a proxy is asked
			_, _ = io.WriteString(w, "asked for "+r.URL.String())
			return
		}
		model.ServeHTTP(w, r)
	}))
	if r := finish(t, sb); r.out != "It says 42\nasked for http://example.invalid/x.\n" || r.exit != (backends.Exit{}) {
		t.Errorf("the agent says %q, stderr %q, exit %+v; the model's problems: %q", r.out, clip(r.errs), r.exit, model.Problems())
	}
}

// agentEnv is the environment of the real CLI.
func (s *sandboxes) agentEnv(t *testing.T) map[string]string {
	path := "/usr/local/bin:/usr/bin:/bin"
	if !s.caps.Images {
		path = filepath.Dir(clitest.Path(t)) + ":" + path // whose folders can be read
	}
	return map[string]string{
		"PATH": path, "HOME": "/run/runner", "ANTHROPIC_API_KEY": "worthless", "ANTHROPIC_BASE_URL": "http://" + helper.AddressToken,
		"http_proxy": "http://" + helper.AddressToken, "no_proxy": "127.0.0.1", "DISABLE_AUTOUPDATER": "1",
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CODE_MAX_RETRIES": "0",
	}
}

func ends(t *testing.T, s *sandboxes) {
	for script, want := range map[string]backends.Exit{
		"exit 0":                {},
		"exit 3":                {Code: 3},
		"kill -9 $$; sleep 60":  {Code: -1, Signal: 9},
		"kill -15 $$; sleep 60": {Code: -1, Signal: 15},
		"exit 127":              {Code: 127},
	} {
		sb, _ := s.start(t, script, nil)
		if r := finish(t, sb); r.exit != want {
			t.Errorf("%s: exit %+v, want %+v; stderr %q", script, r.exit, want, r.errs)
		}
	}
}

func stops(t *testing.T, s *sandboxes) {
	mark := fmt.Sprintf("86400.%d", time.Now().UnixNano())
	sb, _ := s.start(t, "trap '' TERM; setsid sleep $MARK >/dev/null 2>&1 & (sleep $MARK &) ; echo ready; sleep $MARK", map[string]string{"MARK": mark})
	ready(t, sb)
	stop(t, sb, 50*time.Millisecond)
	if left, _ := exec.Command("pgrep", "-f", mark).Output(); len(left) > 0 {
		t.Errorf("processes are left: %s", left)
	}
}

func terminates(t *testing.T, s *sandboxes) {
	sb, _ := s.start(t, "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.02; done", nil)
	ready(t, sb)
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop(t, sb, patience) }()
	r := finish(t, sb)
	<-stopped
	if want := (backends.Exit{Code: 7, Stopped: true}); r.out != "got\n" || r.exit != want {
		t.Errorf("it says %q and ends with %+v, want %+v", r.out, r.exit, want)
	}
}

// collectsOrphans counts, among all that a sandbox sees, those that ended and
// whose parent is the helper.
func collectsOrphans(t *testing.T, s *sandboxes) {
	s.says(t, `for i in 1 2 3 4 5 6 7 8; do (sleep 0.01 &); done; sleep 1
cut -d' ' -f3,4 /proc/[0-9]*/stat 2>/dev/null | grep -cx "Z $PPID"; true`, "0\n")
}

func stdinEnds(t *testing.T, s *sandboxes) {
	sb, _ := s.start(t, "cat; echo end", nil)
	if _, err := io.WriteString(sb.Stdin(), "line\n"); err != nil {
		t.Fatal(err)
	}
	if r := finish(t, sb); r.out != "line\nend\n" || r.exit != (backends.Exit{}) {
		t.Errorf("it says %q and ends with %+v", r.out, r.exit)
	}
}

func muchOutput(t *testing.T, s *sandboxes) {
	sb, _ := s.start(t, `head -c 67108864 /dev/zero | tr '\0' x`, nil)
	if r := finish(t, sb); len(r.out) != 64<<20 || strings.Trim(r.out, "x") != "" {
		t.Errorf("%d bytes, want %d of x", len(r.out), 64<<20)
	}
}

// notWritable is not held where sandboxes of this host run as the runner's user.
func notWritable(t *testing.T, s *sandboxes) {
	if !s.caps.ReadOnlyMounts && os.Geteuid() != 0 {
		t.Skip("the sandbox's user owns the helper's program; Landlock closes it, where there is one")
	}
	s.says(t, `f=$(readlink /proc/$PPID/exe || tr '\0' '\n' < /proc/$PPID/cmdline | head -n 1)
[ -x "$f" ] && ! echo x >> "$f" && ! rm -f "$f" && ! mv "$f" "$f.old" && ! chmod 777 "$f" && echo held`, "held\n")
}

func argumentsHaveNoSecret(t *testing.T, s *sandboxes) {
	secret := fmt.Sprintf("secret-%d", time.Now().UnixNano())
	sb, _ := s.start(t, "echo ready; exec sleep 60", map[string]string{"SECRET": secret})
	ready(t, sb)
	if seen, _ := exec.Command("pgrep", "-f", secret).Output(); len(seen) > 0 {
		t.Errorf("a value of the environment is in a process's arguments: %s", seen)
	}
}
