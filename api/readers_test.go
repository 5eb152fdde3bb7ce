package api_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
)

// crowd is many readers of the streams of some sessions: half of them over
// WebSockets, half as server-sent events, and of ten one reads nothing.
type crowd struct {
	w        *world
	sessions int
	readers  []*reader
	client   http.Client
}

// reader is one of a crowd.
type reader struct {
	session string
	next    func() ([]byte, error) // the next event's JSON
	close   func() error
	stuck   bool
}

// gather connects n readers, a share to each session.
func (w *world) gather(n, sessions int) *crowd {
	w.t.Helper()
	c := &crowd{w: w, sessions: sessions, client: http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, ReadBufferSize: 1 << 10, WriteBufferSize: 1 << 10,
	}}}
	for i := range n {
		open := c.webSocket
		if i%2 == 1 {
			open = c.serverSent
		}
		r, err := open(fmt.Sprintf("s%d", i%sessions))
		if err != nil {
			w.t.Fatalf("reader %d: %v", i, err)
		}
		w.t.Cleanup(func() { _ = r.close() }) // the server may have been first
		r.stuck = i%20 == 4 || i%20 == 5
		first, err := r.next()
		if err != nil || !strings.Contains(string(first), `"connected"`) {
			w.t.Fatalf("reader %d: %s, %v", i, first, err)
		}
		c.readers = append(c.readers, r)
	}
	return c
}

func (c *crowd) webSocket(session string) (*reader, error) {
	dialer := websocket.Dialer{ReadBufferSize: 1 << 10, WriteBufferSize: 1 << 10}
	conn, resp, err := dialer.DialContext(c.w.t.Context(), "ws://"+c.w.addr+"/stream/"+session, nil)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	next := func() ([]byte, error) {
		_, data, err := conn.ReadMessage()
		return data, err
	}
	return &reader{session: session, next: next, close: conn.Close}, nil
}

func (c *crowd) serverSent(session string) (*reader, error) {
	req, err := http.NewRequestWithContext(c.w.t.Context(), http.MethodGet, c.w.url+"/stream/"+session, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(resp.Body, 1<<10)
	next := func() ([]byte, error) {
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return nil, err
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				return []byte(data), nil
			}
		}
	}
	return &reader{session: session, next: next, close: resp.Body.Close}, nil
}

// follow lets everybody who is not stuck read to the end of his session's task,
// and holds that he gets every event, in order. seen is told of each text.
func (c *crowd) follow(seen func(event []byte)) *sync.WaitGroup {
	var group sync.WaitGroup
	for i, r := range c.readers {
		if r.stuck {
			continue
		}
		group.Go(func() {
			for seq := int64(1); ; seq++ {
				data, err := r.next()
				// Decoding it all would be most of what this process does.
				if text := string(data); err != nil || !strings.Contains(text, fmt.Sprintf(`"seq":%d,`, seq)) || !strings.Contains(text, `"sessionId":"`+r.session+`"`) {
					c.w.t.Errorf("reader %d: event %d is %.300s, %v", i, seq, data, err)
					return
				}
				if seen(data); bytes.Contains(data, []byte(`"type":"task_complete"`)) {
					return
				}
			}
		})
	}
	return &group
}

// busy has every session print lines of a width, with a pause in between, and
// the time at which each is printed.
func (c *crowd) busy(lines, width int, pause time.Duration) {
	script := fmt.Sprintf(`mkfifo pause; exec 9<>pause; printf -v wide %%%ds; for ((i=0; i<%d; i++)); do echo "noise $EPOCHREALTIME ${wide// /x}"; read -t %g -u 9; done`, width, lines, pause.Seconds())
	var posts []<-chan answer
	for i := range c.sessions {
		posts = append(posts, c.w.background(fmt.Sprintf("s%d", i), "bash -c '"+script+"'"))
	}
	for _, p := range posts {
		if a := <-p; a.status != http.StatusOK {
			c.w.t.Errorf("%d %.300s", a.status, a.body)
		}
	}
}

// TestThousandReaders holds that each of a thousand readers that reads gets
// every event of its session, in order, whatever those do that are stuck.
func TestThousandReaders(t *testing.T) {
	w := newWorld(t)
	c := w.gather(1000, 10)
	reading := c.follow(func([]byte) {})
	c.busy(30, 2000, 0)
	reading.Wait()
}

// BenchmarkReaders tells how long an agent's line takes to a reader, with a
// thousand of them.
func BenchmarkReaders(b *testing.B) {
	for b.Loop() {
		w := newWorld(b, func(s *setup) { s.session.Concurrency, s.session.Boots = 10, 10 })
		c := w.gather(1000, 10)
		var mu sync.Mutex
		var took []time.Duration
		reading := c.follow(func(event []byte) {
			now := time.Now()
			if at, ok := printedAt(event); ok {
				mu.Lock()
				took = append(took, now.Sub(at))
				mu.Unlock()
			}
		})
		began := time.Now()
		c.busy(100, 200, 100*time.Millisecond) // a hundred lines a second, to ninety readers each
		reading.Wait()
		b.ReportMetric(float64(len(took))/time.Since(began).Seconds(), "events-read/s")
		slices.Sort(took)
		b.ReportMetric(milliseconds(took[len(took)/2]), "ms-p50")
		b.ReportMetric(milliseconds(took[len(took)*99/100]), "ms-p99")
		w.close()
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// printedAt reads the time from a line of busy.
func printedAt(event []byte) (time.Time, bool) {
	_, text, ok := bytes.Cut(event, []byte(`"text":"noise `))
	at, _, _ := bytes.Cut(text, []byte(" "))
	if !ok {
		return time.Time{}, false
	}
	micros, err := strconv.ParseInt(strings.Replace(string(at), ".", "", 1), 10, 64)
	return time.UnixMicro(micros), err == nil
}

// BenchmarkReaderMemory tells how much of the server's memory a reader takes
// that waits for something to happen.
func BenchmarkReaderMemory(b *testing.B) {
	const readers = 1000
	webSocket := "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for name, header := range map[string]string{"websocket": webSocket, "sse": "Accept: text/event-stream\r\n"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				w := newWorld(b)
				before := memory()
				var conns []net.Conn
				for i := range readers {
					// The bare connection: this process's memory is the server's as well.
					conn, err := net.Dial("tcp", w.addr)
					if err == nil {
						_, err = fmt.Fprintf(conn, "GET /stream/s%d HTTP/1.1\r\nHost: localhost\r\n%s\r\n", i%10, header)
					}
					if err != nil {
						b.Fatal(err)
					}
					conns = append(conns, conn)
				}
				for _, conn := range conns {
					if err := readPast(conn, `"connected"`); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(memory()-before)/readers, "B/reader")
				for _, conn := range conns {
					conn.Close()
				}
				w.close()
			}
		})
	}
}

// readPast reads until it has seen text, a byte at a time to keep nothing.
func readPast(in io.Reader, text string) error {
	var seen [1024]byte
	for n := 0; ; {
		m, err := in.Read(seen[n:])
		if n += m; err != nil || strings.Contains(string(seen[:n]), text) {
			return err
		}
	}
}
