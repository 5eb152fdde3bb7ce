package helper_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"claude-runner/backends/helper"
)

// gateway listens on a socket at path and answers each connection by handle.
func gateway(t testing.TB, path string, handle func(*net.UnixConn)) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			conns.Go(func() { defer conn.Close(); handle(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); conns.Wait() })
}

// httpGateway answers every request by what it was asked for, as a proxy is.
func httpGateway(t testing.TB, path string) {
	t.Helper()
	serve(t, path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "asked for "+r.URL.String()+"\n")
	}))
}

// serve serves HTTP on a socket until the test's end.
func serve(t testing.TB, path string, handler http.Handler) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: handler}
	served := make(chan struct{})
	go func() { _ = srv.Serve(l); close(served) }()
	t.Cleanup(func() { _ = srv.Close(); <-served })
}

// echo says back what it reads, and then how much that was: the connection is
// half closed by then.
func echo(conn *net.UnixConn) {
	n, _ := io.Copy(conn, conn)
	_, _ = conn.Write([]byte{byte(n), byte(n >> 8), byte(n >> 16)})
}

// dialed starts a helper and returns its address, by which a test connects as
// the agent would.
func dialed(t testing.TB, socket string) func() *net.TCPConn {
	t.Helper()
	cmd := command(t, helper.Options{Socket: socket}, "echo $PROXY; exec sleep 600")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "PROXY=" + helper.AddressToken}
	address := readLine(t, begin(t, cmd))
	return func() *net.TCPConn {
		t.Helper()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn.(*net.TCPConn)
	}
}

func TestProxyVariable(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	httpGateway(t, socket)
	cmd := command(t, helper.Options{Socket: socket}, `curl -sS http://example.invalid:81/path; echo "$LIST"`)
	cmd.Env = []string{
		"PATH=/usr/bin:/bin", "http_proxy=http://" + helper.AddressToken, "LIST=a=" + helper.AddressToken + "," + helper.AddressToken + "/b",
	}
	out, errs, _ := run(t, cmd)
	answer, list, _ := strings.Cut(out, "\n")
	if answer != "asked for http://example.invalid:81/path" {
		t.Errorf("curl says %q, stderr %q", out, errs)
	}
	if strings.Contains(list, helper.AddressToken) || strings.Count(list, "127.0.0.1:") != 2 {
		t.Errorf("$LIST is %q", list)
	}
}

func TestForward(t *testing.T) {
	t.Run("both directions, with half-close", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "s")
		gateway(t, socket, echo)
		dial := dialed(t, socket)
		var clients sync.WaitGroup
		for range 32 {
			conn := dial()
			clients.Go(func() {
				sent := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
				go func() { _, _ = conn.Write(sent); _ = conn.CloseWrite() }()
				got, err := io.ReadAll(conn)
				n := len(sent)
				if want := append(bytes.Clone(sent), byte(n), byte(n>>8), byte(n>>16)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes came back, want %d; %v", len(got), len(want), err)
				}
			})
		}
		clients.Wait()
	})
	t.Run("a socket whose path is long", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), strings.Repeat("long", 20))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Chdir(dir) // by which the test itself can name it
		gateway(t, "s", echo)
		conn := dialed(t, filepath.Join(dir, "s"))()
		_ = conn.CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != "\x00\x00\x00" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
	t.Run("the gateway closes first", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "s")
		gateway(t, socket, func(conn *net.UnixConn) { _, _ = io.WriteString(conn, "bye") })
		conn := dialed(t, socket)()
		if got, err := io.ReadAll(conn); string(got) != "bye" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
	t.Run("a connection waits for a gateway that restarts", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "s")
		dial := dialed(t, socket)
		early := dial()
		if _, err := io.WriteString(early, "early"); err != nil {
			t.Fatal(err)
		}
		// The file of a gateway that was killed is there, and nobody listens.
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
		if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(socket); err != nil {
			t.Fatal(err)
		}
		gateway(t, socket, echo)
		_ = early.CloseWrite()
		if got, err := io.ReadAll(early); string(got) != "early\x05\x00\x00" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
	t.Run("connections are bounded, and those beyond wait", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "s")
		gateway(t, socket, echo)
		dial := dialed(t, socket)
		var conns []*net.TCPConn
		for range 256 {
			conn := dial()
			conns = append(conns, conn)
			if _, err := io.WriteString(conn, "x"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		late := dial()
		if _, err := io.WriteString(late, "late"); err != nil {
			t.Fatal(err)
		}
		_ = late.CloseWrite()
		_ = conns[0].Close()
		if got, err := io.ReadAll(late); string(got) != "late\x04\x00\x00" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
}
