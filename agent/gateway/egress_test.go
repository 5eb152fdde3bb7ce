package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"claude-runner/agent"
	"claude-runner/agent/gateway"
)

// names resolves by a table. Each lookup of a name gives its next answer, the
// last one again and again.
type names struct {
	mu      sync.Mutex
	answers map[string][]string // each a list of addresses, parted by spaces
	asked   map[string]int
}

func (n *names) LookupNetIP(_ context.Context, _, host string) (addrs []netip.Addr, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	host = strings.TrimSuffix(host, ".")
	answers := n.answers[host]
	if len(answers) == 0 {
		return nil, errors.New("no such host")
	}
	if n.asked == nil {
		n.asked = map[string]int{}
	}
	i := min(n.asked[host], len(answers)-1)
	n.asked[host]++
	for text := range strings.FieldsSeq(answers[i]) {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs, nil
}

// world is a network of the test's: whatever address is called, the server
// answers, and the address is noted.
type world struct {
	server *httptest.Server
	mu     sync.Mutex
	dialed []string
	got    *http.Request
	body   string
}

func newWorld(t *testing.T, secure bool) *world {
	w := new(world)
	handler := http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		w.mu.Lock()
		w.got, w.body = r, string(data)
		w.mu.Unlock()
		out.Header().Set("X-From", "world")
		fmt.Fprintf(out, "%s %s", r.Method, r.Host)
	})
	if secure {
		w.server = httptest.NewTLSServer(handler)
	} else {
		w.server = httptest.NewServer(handler)
	}
	t.Cleanup(w.server.Close)
	return w
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, address)
	w.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, network, w.server.Listener.Addr().String())
}

func (w *world) calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.dialed...)
}

// raw sends bytes to the socket and returns the answer to them.
func raw(t *testing.T, socket, text string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK && method == "CONNECT" {
		return response, ""
	}
	data, _ := io.ReadAll(response.Body)
	return response, string(data)
}

func get(target string) string {
	u, err := url.Parse(target)
	host := "x"
	if err == nil {
		host = u.Host
	}
	return "GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"
}

func connectTo(target string) string {
	return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n"
}

var resolved = map[string][]string{
	"api.example.com":     {"93.184.216.34"},
	"deep.in.example.com": {"93.184.216.35"},
	"example.com":         {"93.184.216.36"},
	"private.example.com": {"10.1.2.3"},
	"meta.example.com":    {"169.254.169.254"},
	"meta6.example.com":   {"fd00:ec2::254"},
	"loop.example.com":    {"127.0.0.1"},
	"loop6.example.com":   {"::1"},
	"mapped.example.com":  {"::ffff:127.0.0.1"},
	"nat64.example.com":   {"64:ff9b::a9fe:a9fe"},
	"zero.example.com":    {"0.0.0.0"},
	"both.example.com":    {"10.1.2.3 93.184.216.40"},
	"rebind.example.com":  {"93.184.216.50", "127.0.0.1"},
	"intra.corp":          {"10.9.9.9"},
	"named.corp":          {"10.7.0.1"},
	"sneaky.corp":         {"127.0.0.1"},
	"link.corp":           {"169.254.1.1"},
	"get.example.org":     {"93.184.216.60"},
}

var rules = []agent.EgressRule{
	{Host: "*.example.com"},
	{Host: "get.example.org", Methods: []string{"GET"}},
	{Host: "intra.corp", Private: true},
	{Host: "sneaky.corp", Private: true},
	{Host: "link.corp", Private: true},
	{Host: "named.corp"},
	{Host: "10.7.0.0/16", Ports: []int{80}},
	{Host: "192.168.7.7", Ports: []int{8080}},
	{Host: "2606:2800::7"},
	{Host: "host.docker.internal", Ports: []int{3457}},
}

// Each line is a request, and where it goes or why it does not.
func TestEgress(t *testing.T) {
	w := newWorld(t, false)
	l := lease(t, deadURL(t))
	l.Network, l.Egress = agent.NetworkAllowlist, rules
	g, _ := open(t, l, gateway.Options{Resolver: &names{answers: resolved}, Dial: w.dial})
	for _, tt := range []struct {
		request string
		dials   string // empty: refused
		reason  string
		rule    string // what would allow it
	}{
		{get("http://api.example.com/"), "93.184.216.34:80", "", ""},
		{get("http://API.Example.COM./"), "93.184.216.34:80", "", ""},
		{get("http://api.example.com:443/"), "93.184.216.34:443", "", ""},
		{get("http://deep.in.example.com/"), "93.184.216.35:80", "", ""},
		{connectTo("api.example.com:443"), "93.184.216.34:443", "", ""},
		{get("http://both.example.com/"), "93.184.216.40:80", "", ""},
		{get("http://intra.corp/"), "10.9.9.9:80", "", ""},
		{get("http://named.corp/"), "10.7.0.1:80", "", ""},
		{get("http://10.7.8.9/"), "10.7.8.9:80", "", ""},
		{get("http://192.168.7.7:8080/"), "192.168.7.7:8080", "", ""},
		{get("http://[2606:2800::7]/"), "[2606:2800::7]:80", "", ""},
		{get("http://host.docker.internal:3457/x"), "127.0.0.1:3457", "", ""},
		{connectTo("host.docker.internal:3457"), "127.0.0.1:3457", "", ""},
		{get("http://get.example.org/"), "93.184.216.60:80", "", ""},

		{get("http://example.com/"), "", "no egress rule names example.com", `{host: "example.com", ports: [80]}`},
		{get("http://other.org:8080/"), "", "no egress rule names other.org", `{host: "other.org", ports: [8080]}`},
		{get("http://api.example.com.evil.org/"), "", "no egress rule", `{host: "api.example.com.evil.org", ports: [80]}`},
		{connectTo("api.example.com:22"), "", "does not allow port 22", `{host: "api.example.com", ports: [22]}`},
		{get("http://host.docker.internal:3456/"), "", "does not allow port 3456", `{host: "host.docker.internal", ports: [3456]}`},
		{connectTo("get.example.org:443"), "", "does not allow CONNECT", `{host: "get.example.org", ports: [443], methods: [GET, CONNECT]}`},
		{strings.Replace(get("http://get.example.org/"), "GET", "DELETE", 1), "", "does not allow DELETE", `methods: [GET, DELETE]`},
		{get("http://private.example.com/"), "", "private network", `{host: "private.example.com", ports: [80], private: true}`},
		{get("http://loop.example.com/"), "", "the runner's own host", `{host: "host.docker.internal", ports: [80]}`},
		{get("http://loop6.example.com/"), "", "the runner's own host", `{host: "host.docker.internal", ports: [80]}`},
		{get("http://mapped.example.com/"), "", "the runner's own host", `{host: "host.docker.internal", ports: [80]}`},
		{get("http://sneaky.corp/"), "", "the runner's own host", `{host: "host.docker.internal", ports: [80]}`},
		{get("http://meta.example.com/"), "", "metadata", ""},
		{get("http://meta6.example.com/"), "", "metadata", ""},
		{get("http://nat64.example.com/"), "", "metadata", ""},
		{get("http://zero.example.com/"), "", "reserved", ""},
		{get("http://link.corp/"), "", "link-local", ""},
		{connectTo("named.corp:443"), "", "private network", `private: true`}, // the address' rule is for port 80
		{get("http://127.0.0.1/"), "", "no egress rule names 127.0.0.1", `{host: "127.0.0.1", ports: [80]}`},
		{get("http://169.254.169.254/latest"), "", "metadata", ""},
		{connectTo("[fd00:ec2::254]:80"), "", "metadata", ""},
		{get("http://[::1]/"), "", "no egress rule", `{host: "::1", ports: [80]}`},
		{get("http://2130706433/"), "", "neither", ""},
		{get("http://0x7f.1/"), "", "neither", ""},
		{get("http://0x7f000001/"), "", "neither", ""},
		{get("http://127.1/"), "", "neither", ""},
		{get("http://0177.0.0.1/"), "", "neither", ""},
		{get("http://[::ffff:10.7.8.9]/"), "", "no plain address", ""},
		{get("http://[fe80::1%25eth0]/"), "", "no plain address", ""},
		{connectTo("[::ffff:127.0.0.1]:443"), "", "no plain address", ""},
		{get("http://localhost:3456/"), "", "the sandbox itself", `{host: "host.docker.internal", ports: [3456]}`},
		{get("https://api.example.com/"), "", "CONNECT", ""},
		{get("ftp://api.example.com/"), "", "CONNECT", ""},
	} {
		name := strings.SplitN(tt.request, " HTTP", 2)[0]
		before := len(w.calls())
		response, text := raw(t, l.Socket, tt.request)
		dialed := w.calls()[before:]
		if tt.dials != "" {
			if response.StatusCode != http.StatusOK || len(dialed) != 1 || dialed[0] != tt.dials {
				t.Errorf("%s: %s, dialed %v: %s", name, response.Status, dialed, text)
			}
			continue
		}
		if response.StatusCode != http.StatusForbidden || len(dialed) > 0 {
			t.Errorf("%s: %s, dialed %v", name, response.Status, dialed)
		}
		contains(t, text, tt.reason, tt.rule)
		if tt.rule == "" && strings.Contains(text, "{host") {
			t.Errorf("%s: a rule is named: %s", name, text)
		}
	}
	list, err := g.Refusals(t.Context(), l.ID, 0)
	if err != nil || len(list) < 30 {
		t.Errorf("%d refusals, %v", len(list), err)
	}
	for _, r := range list {
		var rule agent.EgressRule
		if r.Rule == "" {
			continue
		}
		if err := yaml.Unmarshal([]byte(r.Rule), &rule); err != nil {
			t.Errorf("%s: %v", r.Rule, err)
		}
		if err := rule.Validate(); err != nil || !strings.HasPrefix(r.Target, strings.Trim(rule.Host, "[]")) && rule.Host != "host.docker.internal" && !strings.HasPrefix(r.Target, "[") {
			t.Errorf("%+v names a rule that will not do: %v", r, err)
		}
	}
}

// A name that resolves to another address at the second time is checked, and
// called, by what each request's own lookup gave.
func TestRebinding(t *testing.T) {
	w := newWorld(t, false)
	resolver := &names{answers: resolved}
	l := lease(t)
	l.Network, l.Egress = agent.NetworkAllowlist, rules
	open(t, l, gateway.Options{Resolver: resolver, Dial: w.dial})
	if response, text := raw(t, l.Socket, get("http://rebind.example.com/")); response.StatusCode != http.StatusOK {
		t.Errorf("%s %s", response.Status, text)
	}
	if n := resolver.asked["rebind.example.com"]; n != 1 {
		t.Errorf("%d lookups for one request", n)
	}
	if response, text := raw(t, l.Socket, get("http://rebind.example.com/")); response.StatusCode != http.StatusForbidden {
		t.Errorf("%s %s", response.Status, text)
	}
	if calls := w.calls(); len(calls) != 1 || calls[0] != "93.184.216.50:80" {
		t.Errorf("dialed %v", calls)
	}
}

func TestNetworkModes(t *testing.T) {
	for mode, want := range map[agent.NetworkMode]string{"": "no network", agent.NetworkNone: "no network", agent.NetworkOpen: "without the proxy"} {
		w := newWorld(t, false)
		l := lease(t)
		l.Network, l.Egress = mode, rules
		open(t, l, gateway.Options{Resolver: &names{answers: resolved}, Dial: w.dial})
		for _, request := range []string{get("http://api.example.com/"), connectTo("api.example.com:443")} {
			response, text := raw(t, l.Socket, request)
			if response.StatusCode != http.StatusForbidden || len(w.calls()) > 0 {
				t.Errorf("%q: %s %s", mode, response.Status, text)
			}
			contains(t, text, want)
		}
	}
}

func TestPlainRequests(t *testing.T) {
	w := newWorld(t, false)
	l := lease(t)
	l.Network = agent.NetworkAllowlist
	l.Egress = []agent.EgressRule{{Host: "*.example.com", Headers: map[string]agent.Secret{"Authorization": "Bearer tool-secret"}}}
	open(t, l, gateway.Options{Resolver: &names{answers: resolved}, Dial: w.dial})
	response, text := raw(t, l.Socket, "POST http://user:pw@api.example.com/a%2Fb?q=1 HTTP/1.1\r\nHost: evil.org\r\n"+
		"Authorization: Bearer forged\r\nProxy-Authorization: Basic x\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Kept: 2\r\nContent-Length: 5\r\n\r\nhello")
	if response.StatusCode != http.StatusOK || response.Header.Get("X-From") != "world" || text != "POST api.example.com" {
		t.Errorf("%s %v %s", response.Status, response.Header, text)
	}
	h := w.got.Header
	if h.Get("Authorization") != "Bearer tool-secret" || h.Get("Proxy-Authorization") != "" || h.Get("X-Hop") != "" || h.Get("X-Kept") != "2" {
		t.Errorf("headers %v", h)
	}
	if w.got.RequestURI != "/a%2Fb?q=1" || w.body != "hello" {
		t.Errorf("got %s %q", w.got.RequestURI, w.body)
	}
}

func TestRulesWithTLS(t *testing.T) {
	w := newWorld(t, true)
	roots := x509.NewCertPool()
	roots.AddCert(w.server.Certificate()) // for example.com
	l := lease(t)
	l.Network = agent.NetworkAllowlist
	l.Egress = []agent.EgressRule{{Host: "example.com", TLS: true, Ports: []int{443}, Headers: map[string]agent.Secret{"X-Key": "tool-secret"}}}
	open(t, l, gateway.Options{Resolver: &names{answers: resolved}, Dial: w.dial, TLS: &tls.Config{RootCAs: roots}})
	response, text := raw(t, l.Socket, get("http://example.com/x"))
	if response.StatusCode != http.StatusOK || text != "GET example.com" || w.got.Header.Get("X-Key") != "tool-secret" || w.got.TLS == nil {
		t.Errorf("%s %s", response.Status, text)
	}
	if calls := w.calls(); len(calls) != 1 || calls[0] != "93.184.216.36:443" {
		t.Errorf("dialed %v", calls)
	}
}

func TestTunnelHalfCloses(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	var served sync.WaitGroup
	served.Go(func() {
		conn, err := echo.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		data, _ := io.ReadAll(conn) // to the sandbox's end
		_, _ = conn.Write(bytes.ToUpper(data))
	})
	port := echo.Addr().(*net.TCPAddr).Port
	l := lease(t)
	l.Network = agent.NetworkAllowlist
	l.Egress = []agent.EgressRule{{Host: "host.docker.internal", Ports: []int{port}}}
	open(t, l, gateway.Options{})
	conn, err := net.Dial("unix", l.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// What is sent together with the request is not lost.
	fmt.Fprintf(conn, "CONNECT host.docker.internal:%d HTTP/1.1\r\nHost: x\r\n\r\nearly ", port)
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response, err)
	}
	fmt.Fprint(conn, "late")
	_ = conn.(*net.UnixConn).CloseWrite()
	data, err := io.ReadAll(r)
	if err != nil || string(data) != "EARLY LATE" {
		t.Errorf("%q %v", data, err)
	}
	served.Wait()
}

// A tunnel ends with its lease, and when its lease is opened again without it.
func TestTunnelsEnd(t *testing.T) {
	for _, closes := range []bool{true, false} {
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		port := silent.Addr().(*net.TCPAddr).Port
		l := lease(t)
		l.Network = agent.NetworkAllowlist
		l.Egress = []agent.EgressRule{{Host: "host.docker.internal", Ports: []int{port}}}
		g, _ := open(t, l, gateway.Options{})
		conn, err := net.Dial("unix", l.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, connectTo("host.docker.internal:"+strconv.Itoa(port)))
		r := bufio.NewReader(conn)
		if response, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect}); err != nil || response.StatusCode != http.StatusOK {
			t.Fatal(response, err)
		}
		if l.Egress = nil; closes {
			err = g.Close(t.Context(), l.ID)
		} else {
			err = g.Open(t.Context(), l)
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		var timeout net.Error
		if _, err := r.ReadByte(); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("the tunnel is still open: %v", err)
		}
	}
}

func TestRefusals(t *testing.T) {
	l := lease(t)
	l.Network = agent.NetworkAllowlist
	g, _ := open(t, l, gateway.Options{})
	for range 5 {
		raw(t, l.Socket, get("http://one.org/"))
	}
	first, err := g.Refusals(t.Context(), l.ID, 0)
	if err != nil || len(first) != 1 {
		t.Fatalf("%+v %v", first, err)
	}
	if r := first[0]; r.Meter != "task" || r.Method != http.MethodGet || r.Target != "one.org:80" || r.Rule != `{host: "one.org", ports: [80]}` {
		t.Errorf("%+v", r)
	}
	var waited atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		next, err := g.Refusals(t.Context(), l.ID, first[0].Seq)
		if err != nil || len(next) != 1 || next[0].Target != "two.org:443" || !waited.Load() {
			t.Errorf("%+v %v", next, err)
		}
	})
	waited.Store(true)
	raw(t, l.Socket, connectTo("two.org:443"))
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := g.Refusals(ctx, l.ID, first[0].Seq+10); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	for i := range 400 {
		raw(t, l.Socket, get(fmt.Sprintf("http://n%d.org/", i)))
	}
	if all, _ := g.Refusals(t.Context(), l.ID, 0); len(all) != 256 || all[255].Target != "n399.org:80" {
		t.Errorf("%d are kept", len(all))
	}
	if _, err := g.Refusals(t.Context(), "nobody", 0); !errors.Is(err, gateway.ErrNoLease) {
		t.Errorf("%v", err)
	}
}
