package backendtest

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"claude-runner/backends"
)

var networkCases = []testCase{
	{"none: no interface but loopback", (*suite).networkNone},
	{"none: loopback is up, and localhost leads to it", (*suite).networkLoopback},
	{"open: the host is reached by HostAlias", (*suite).networkOpen},
	{"a mode that Capabilities does not list is refused", (*suite).networkRefused},
}

func (s *suite) networkNone(t *testing.T) {
	if !slices.Contains(s.caps.Networks, backends.NetworkNone) {
		t.Skip("Networks has no none")
	}
	spec := s.shell("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '")
	spec.Network = backends.NetworkNone
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "lo\n" {
		t.Errorf("the interfaces are %q, want lo alone", r.out)
	}
}

// networkLoopback connects to a port on which nobody listens, which is refused
// only where the way there is whole.
func (s *suite) networkLoopback(t *testing.T) {
	if !slices.Contains(s.caps.Networks, backends.NetworkNone) {
		t.Skip("Networks has no none")
	}
	spec := s.shell("command -v bash >/dev/null || { echo no bash; exit 0; }; LC_ALL=C exec bash -c 'true </dev/tcp/localhost/1' 2>&1")
	spec.Network = backends.NetworkNone
	r := s.run(t, spec)
	if r.out == "no bash\n" {
		t.Skip("the image has no bash")
	}
	if !strings.Contains(r.out, "Connection refused") {
		t.Errorf("a connection to localhost: %q, want one that is refused", r.out)
	}
}

// networkOpen lets the sandbox fetch a page of this host by curl, where it has
// that, and else find the host's name.
func (s *suite) networkOpen(t *testing.T) {
	if !slices.Contains(s.caps.Networks, backends.NetworkOpen) {
		t.Skip("Networks has no open")
	}
	listener, err := net.Listen("tcp", "0.0.0.0:0") // the engine's network is not loopback
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello\n") }))
	srv.Listener = listener
	srv.Start()
	defer srv.Close()

	_, port, _ := net.SplitHostPort(listener.Addr().String())
	spec := s.shell(`if command -v curl >/dev/null; then exec curl -sS --max-time 20 "http://$HOST_NAME:$PORT/"; else grep -wq "$HOST_NAME" /etc/hosts && echo hello; fi`)
	spec.Env["HOST_NAME"], spec.Env["PORT"] = backends.HostAlias, port
	if r := s.expectExit(t, spec, backends.Exit{}); r.out != "hello\n" {
		t.Errorf("the host answers %q, want %q; stderr %q", r.out, "hello\n", strings.TrimSpace(r.err))
	}
}

func (s *suite) networkRefused(t *testing.T) {
	for _, mode := range []backends.NetworkMode{backends.NetworkOpen, backends.NetworkNone} {
		if slices.Contains(s.caps.Networks, mode) {
			continue
		}
		spec := s.sleeper()
		spec.Network = mode
		s.expectStartError(t, s.backend(t), spec, backends.ErrInvalidSpec)
	}
}
