package backendtest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"claude-runner/backends"
)

var fileCases = []testCase{
	{"a mount is seen where Capabilities.Path says", (*suite).mountPath},
	{"a mount's path may hold any character", (*suite).mountCharacters},
	{"what the sandbox writes to a mount is the host's at once", (*suite).mountIsLive},
	{"a read-only mount refuses writes", (*suite).readOnlyMount},
	{"a file that is mounted can be read and run", (*suite).fileMount},
	{"a file that is mounted can not be written or replaced", (*suite).fileMountReadOnly},
	{"a file that is to be mounted writable is ErrInvalidSpec", (*suite).fileMountWritable},
	{"a socket in a mount is reached where Capabilities.Sockets says so", (*suite).socketInMount},
	{"an image's files can not be written", (*suite).readOnlyImage},
	{"a tmpfs can be written", (*suite).tmpfs},
}

func (s *suite) mountPath(t *testing.T) {
	spec := s.shell(`cat "$A/name" "$B/name"`)
	for name, target := range map[string]string{"A": "/mnt/first", "B": "/mnt/deep/er/second"} {
		m := backends.Mount{Source: OwnedDir(t, spec.User), Target: target}
		if err := os.WriteFile(filepath.Join(m.Source, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		spec.Mounts = append(spec.Mounts, m)
		spec.Env[name] = s.caps.Path(m)
		if want := target; s.caps.MountsAtTarget && spec.Env[name] != want {
			t.Errorf("Path of %+v is %q, want its target", m, spec.Env[name])
		}
	}
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "AB" {
		t.Errorf("the mounts hold %q, want %q", r.out, "AB")
	}
}

func (s *suite) mountCharacters(t *testing.T) {
	const odd = "a:b,c=\"d\" 'e'\\f $g 日本"
	spec := s.shell(`cat "$ODD/name"; echo ok > "$ODD/answer"`)
	m := backends.Mount{Source: filepath.Join(SharedDir(t), odd), Target: "/mnt/" + odd}
	if err := os.Mkdir(m.Source, 0o755); err != nil {
		t.Fatal(err)
	}
	give(t, m.Source, spec.User)
	if err := os.WriteFile(filepath.Join(m.Source, "name"), []byte("odd"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = []backends.Mount{m}
	spec.Env["ODD"] = s.caps.Path(m)
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "odd" {
		t.Errorf("the mount holds %q, want %q", r.out, "odd")
	}
	if _, err := os.Stat(filepath.Join(m.Source, "answer")); err != nil {
		t.Error(err)
	}
}

func (s *suite) mountIsLive(t *testing.T) {
	spec := s.shell("echo ready; while [ ! -e $W/go ]; do sleep 0.02; done; echo seen > $W/answer; echo done; exec sleep $" + markVar)
	dir := s.folder(t, &spec)
	sb := s.start(t, s.backend(t), spec)
	expectOutput(t, sb.Stdout(), "ready\n")
	touch(t, dir, "go")
	expectOutput(t, sb.Stdout(), "done\n")
	if got, err := os.ReadFile(filepath.Join(dir, "answer")); err != nil || string(got) != "seen\n" {
		t.Errorf("the answer is %q, %v", got, err)
	}
}

func (s *suite) readOnlyMount(t *testing.T) {
	if !s.caps.ReadOnlyMounts {
		t.Skip("ReadOnlyMounts is false")
	}
	spec := s.shell(`cat "$R/name" && ! touch "$R/name" && ! touch "$R/new" && ! rm "$R/name" && touch "$W/new"`)
	dir := s.folder(t, &spec)
	m := backends.Mount{Source: OwnedDir(t, spec.User), Target: "/mnt/template", ReadOnly: true}
	touch(t, m.Source, "name")
	give(t, filepath.Join(m.Source, "name"), spec.User)
	spec.Mounts = append(spec.Mounts, m)
	spec.Env["R"] = s.caps.Path(m)
	s.expectExit(t, spec, backends.Exit{})
	if _, err := os.Stat(filepath.Join(dir, "new")); err != nil {
		t.Errorf("the mount beside it is not writable: %v", err)
	}
}

// file makes a file that anybody may run, and mounts it read-only in spec. The
// sandbox finds it at $F.
func (s *suite) file(t *testing.T, spec *backends.Spec, content string) string {
	t.Helper()
	m := backends.Mount{Source: filepath.Join(SharedDir(t), "program"), Target: "/usr/local/lib/backendtest/program", ReadOnly: true}
	if err := os.WriteFile(m.Source, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = append(spec.Mounts, m)
	spec.Env["F"] = s.caps.Path(m)
	return m.Source
}

func (s *suite) fileMount(t *testing.T) {
	const program = "#!/bin/sh\necho runs\n"
	spec := s.shell(`cat "$F" && "$F"`)
	s.file(t, &spec, program)
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != program+"runs\n" {
		t.Errorf("the file holds and says %q, want %q", r.out, program+"runs\n")
	}
}

func (s *suite) fileMountReadOnly(t *testing.T) {
	if !s.caps.ReadOnlyMounts {
		t.Skip("ReadOnlyMounts is false")
	}
	spec := s.shell(`! echo x > "$F" && ! rm -f "$F" && ! mv "$F" "$F.old" && ! chmod 777 "$F" && ! ln -f /etc/passwd "$F"; echo $?; cat "$F"`)
	file := s.file(t, &spec, "text")
	give(t, file, spec.User)
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "0\ntext" {
		t.Errorf("the sandbox says %q, want %q; stderr %q", r.out, "0\ntext", r.err)
	}
	if text, err := os.ReadFile(file); string(text) != "text" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

func (s *suite) fileMountWritable(t *testing.T) {
	spec := s.sleeper()
	s.file(t, &spec, "text")
	spec.Mounts[0].ReadOnly = false
	s.expectStartError(t, s.backend(t), spec, backends.ErrInvalidSpec)
}

// socketInMount uses Perl, which the suite's images have, because a shell knows
// no sockets. Without Sockets the connection is refused or fails: what
// Capabilities promises too little of is found here as well.
func (s *suite) socketInMount(t *testing.T) {
	spec := s.shell(`command -v perl >/dev/null || { echo no perl; exit 3; }
exec perl -MSocket -e 'socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die $!; connect($s, sockaddr_un($ARGV[0])) or die "connect: $!\n"; print <$s>' "$W/socket"`)
	if slices.Contains(s.caps.Networks, backends.NetworkNone) {
		spec.Network = backends.NetworkNone
	}
	path := filepath.Join(s.folder(t, &spec), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Skip("the path of a temporary folder is too long for a socket: ", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("hello\n"))
			_ = conn.Close()
		}
	}()
	defer func() { _ = l.Close(); <-answered }()
	r := s.run(t, spec)
	if r.exit.Code == 3 {
		t.Skip("the sandbox has no perl")
	}
	if reached := r.out == "hello\n"; reached != s.caps.Sockets {
		t.Errorf("Sockets is %v, and the sandbox reads %q; stderr %q", s.caps.Sockets, r.out, r.err)
	}
}

// readOnlyImage tries the folders that every user may write in a usual image.
func (s *suite) readOnlyImage(t *testing.T) {
	if !s.caps.Images {
		t.Skip("Images is false")
	}
	s.expectExit(t, s.shell("! touch /file && ! touch /tmp/file && ! touch /var/tmp/file && ! touch /usr/bin/file"), backends.Exit{})
}

func (s *suite) tmpfs(t *testing.T) {
	if !s.caps.Images {
		t.Skip("Images is false")
	}
	spec := s.shell(`touch /tmp/file && printf '#!/bin/sh\necho runs\n' > /scratch/run && chmod +x /scratch/run && /scratch/run`)
	spec.Limits.Tmpfs = map[string]int64{"/tmp": 1 << 20, "/scratch": 1 << 20}
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "runs\n" {
		t.Errorf("a program in a tmpfs says %q, want %q", r.out, "runs\n")
	}
}

// checkOwner fails the test unless path belongs to u.
func checkOwner(t testing.TB, path string, u backends.User) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Error(err)
		return
	}
	st := info.Sys().(*syscall.Stat_t)
	if got := fmt.Sprintf("%d:%d", st.Uid, st.Gid); got != fmt.Sprintf("%d:%d", u.UID, u.GID) {
		t.Errorf("%s belongs to %s, want %d:%d", path, got, u.UID, u.GID)
	}
}
