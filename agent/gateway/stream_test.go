package gateway_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"claude-runner/agent/gateway"
)

// shortDir is a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestStream speaks to a daemon's stream by hand.
func TestStream(t *testing.T) {
	dir := shortDir(t)
	client := start(t, dir)
	l := simpleLease(filepath.Join(dir, "s"), "http://127.0.0.1:9")
	if err := client.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(filepath.Join(dir, "gateway.v1.key"))
	if err != nil {
		t.Fatal(err)
	}
	dial := func(t *testing.T, secret string) (net.Conn, *bufio.Reader, *http.Response) {
		t.Helper()
		conn, err := net.Dial("unix", filepath.Join(dir, "gateway.v1.sock"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "POST /stream HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: claude-runner-gateway\r\nContent-Length: 0\r\nGateway-Key: %s\r\n\r\n", secret)
		in := bufio.NewReader(conn)
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return conn, in, response
	}
	t.Run("needs the key", func(t *testing.T) {
		for _, wrong := range []string{"", "another", string(secret) + "x"} {
			if _, _, response := dial(t, wrong); response.StatusCode != http.StatusUnauthorized {
				t.Errorf("key %q: %s", wrong, response.Status)
			}
		}
	})
	t.Run("answers in the questions' order", func(t *testing.T) {
		conn, in, response := dial(t, string(secret))
		if response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Gateway-Instance") == "" {
			t.Fatalf("%s %v", response.Status, response.Header)
		}
		fmt.Fprintln(conn, `[{"path":"/renew","lease":"sandbox","meter":"a"},{"path":"/renew","lease":"nobody"},{"path":"/open"},{"path":"/totals","meter":"a"},{"path":"/forget","meter":"a"}]`)
		line, err := in.ReadString('\n')
		var got []struct{ Error, Kind string }
		if err == nil {
			err = json.Unmarshal([]byte(line), &got)
		}
		if err != nil || len(got) != 5 {
			t.Fatalf("%q %v", line, err)
		}
		if got[0].Error+got[3].Error+got[4].Error != "" || got[1].Kind != "no_lease" || got[2].Error == "" {
			t.Errorf("%s", line)
		}
	})
	t.Run("ends after nonsense", func(t *testing.T) {
		conn, in, _ := dial(t, string(secret))
		fmt.Fprintln(conn, `{"token":"worthless-token"`)
		if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
			t.Errorf("%q %v", rest, err)
		}
		if log, _ := os.ReadFile(filepath.Join(dir, "gateway.v1.log")); strings.Contains(string(log), "worthless-token") {
			t.Error("the log has what was sent")
		}
	})
	t.Run("ends with the daemon", func(t *testing.T) {
		_, in, _ := dial(t, string(secret))
		for _, pid := range daemons(t, dir) {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
			t.Errorf("%q %v", rest, err)
		}
		l.Meter = "b"
		if err := client.Open(t.Context(), l); err != nil { // at the next daemon
			t.Fatal(err)
		}
	})
}

// An earlier client sends a renewal as a request, with other names.
func TestEarlierClient(t *testing.T) {
	_, url := upstream(t, `rules: [{answer: [{text: hi}]}]`, scriptedOptions)
	dir := shortDir(t)
	client := start(t, dir)
	l := simpleLease(filepath.Join(dir, "s"), url)
	if err := client.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(filepath.Join(dir, "gateway.v1.key"))
	if err != nil {
		t.Fatal(err)
	}
	r, _ := http.NewRequest(http.MethodPost, "http://gateway/renew", strings.NewReader(
		`{"Lease":"sandbox","Meter":"other","Budgets":[{"Name":"spent","LimitUSD":1,"SpentUSD":1}]}`))
	r.Header.Set("Gateway-Key", string(secret))
	if response, text := do(t, inside(t, filepath.Join(dir, "gateway.v1.sock")), r); response.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", response.Status, text)
	}
	if response, _ := do(t, inside(t, l.Socket), request(t.Context(), body(false, "hi"))); response.StatusCode == http.StatusOK {
		t.Error("a budget that is spent lets a call through")
	}
	if got, err := client.Totals(t.Context(), "other"); err != nil || got.Exceeded == nil || got.Exceeded.Budget != "spent" {
		t.Errorf("%+v %v", got, err)
	}
}

// A daemon of an earlier version has no stream, and is asked by requests.
func TestEarlierDaemon(t *testing.T) {
	dir := shortDir(t)
	if err := os.WriteFile(filepath.Join(dir, "gateway.v1.key"), []byte("the key"), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "gateway.v1.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	var mu sync.Mutex
	asked := map[string]int{} // by path
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Lease, Meter string
			Budgets      []gateway.Budget
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil && r.URL.Path != "/stream" || r.Header.Get("Gateway-Key") != "the key" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		mu.Lock()
		asked[r.URL.Path]++
		mu.Unlock()
		w.Header().Set("Gateway-Instance", "earlier")
		switch r.URL.Path {
		case "/watch":
			select {
			case <-ended:
			case <-r.Context().Done():
			}
		case "/renew":
			if q.Lease != "sandbox" || q.Meter == "" || len(q.Budgets) != 1 {
				t.Errorf("renew %+v", q)
			}
			if q.Meter == "nobody's" {
				w.WriteHeader(http.StatusUnprocessableEntity)
				fmt.Fprint(w, `{"error":"no such lease","kind":"no_lease"}`)
				return
			}
		case "/totals":
			fmt.Fprintf(w, `{"Calls":%d,"ByModel":{}}`, len(q.Meter))
			return
		case "/ping", "/open", "/forget", "/shutdown":
		default:
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, "null")
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	defer func() { _ = server.Close(); <-served }()

	client, err := gateway.Start(t.Context(), gateway.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	l := simpleLease(filepath.Join(dir, "s"), "http://127.0.0.1:9")
	l.Budgets = []gateway.Budget{{Name: "b", LimitUSD: 1}}
	for _, l.Meter = range []string{"one", "two", "nobody's"} { // opened, renewed, and opened after a renewal in vain
		if err := client.Open(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			meter := strings.Repeat("m", 1+i%3)
			if got, err := client.Totals(t.Context(), meter); err != nil || got.Calls != int64(len(meter)) {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
	all.Wait()
	const forgotten = 300 // more than go in one message
	for range forgotten {
		if err := client.Forget(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
	}
	close(ended)
	if err := client.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if asked["/open"] != 2 || asked["/renew"] != 2 || asked["/totals"] != 50 || asked["/forget"] != forgotten {
		t.Errorf("asked %v", asked)
	}
	if asked["/stream"] > 2 { // once, and by Shutdown
		t.Errorf("asked %d times for a stream that is not there", asked["/stream"])
	}
}
