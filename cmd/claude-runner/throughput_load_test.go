package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// loadName is the first argument of this program as a load generator, which is
// a process of its own so that its processor time is not the server's.
const loadName = "claude-runner-load"

// load is what a load generator is told, over its standard input.
type load struct {
	Address  string
	Sessions []string      // each has a connection, and one task at a time
	Warm     time.Duration // before it counts
	For      time.Duration
}

// loaded is what it answers.
type loaded struct {
	Tasks    int
	Took     time.Duration
	P50, P99 time.Duration
	CPU      time.Duration // of the time that counts
}

func init() {
	if len(os.Args) == 0 || os.Args[0] != loadName {
		return
	}
	code := 0
	if err := generate(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	syscall.Exit(code)
}

// generate loads a server and tells twice: when it begins to count, and what it
// counted.
func generate(in io.Reader, out io.Writer) error {
	var l load
	if err := json.NewDecoder(in).Decode(&l); err != nil {
		return err
	}
	counted := make([][]time.Duration, len(l.Sessions))
	failed := make(chan error, len(l.Sessions))
	began := time.Now().Add(l.Warm)
	end := began.Add(l.For)
	var clients sync.WaitGroup
	for i, id := range l.Sessions {
		clients.Go(func() {
			var err error
			if counted[i], err = sendTasks(l.Address, id, began, end); err != nil {
				failed <- err
			}
		})
	}
	time.Sleep(l.Warm)
	before := cpuTime()
	if _, err := fmt.Fprintln(out, `"counting"`); err != nil {
		return err
	}
	clients.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	all := slices.Concat(counted...)
	slices.Sort(all)
	if len(all) == 0 {
		return fmt.Errorf("no task in %v", l.For)
	}
	return json.NewEncoder(out).Encode(loaded{
		Tasks: len(all), Took: l.For, P50: all[len(all)/2], P99: all[len(all)*99/100], CPU: cpuTime() - before,
	})
}

// sendTasks sends one task after the other to a session, and returns how long those
// took that began in time.
func sendTasks(address, session string, began, end time.Time) ([]time.Duration, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	body := fmt.Sprintf(`{"sessionId":%q,"message":"hello"}`, session)
	request := fmt.Appendf(nil, "POST /task HTTP/1.1\r\nHost: runner\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	in := bufio.NewReaderSize(conn, 16<<10)
	took := make([]time.Duration, 0, 1<<14)
	for {
		begun := time.Now()
		if begun.After(end) {
			return took, nil
		}
		if _, err := conn.Write(request); err != nil {
			return nil, err
		}
		if err := readAnswer(in); err != nil {
			return nil, fmt.Errorf("session %s: %w", session, err)
		}
		if now := time.Now(); begun.After(began) && now.Before(end) {
			took = append(took, now.Sub(begun))
		}
	}
}

// readAnswer reads an answer of a known length, as cheaply as can be.
func readAnswer(in *bufio.Reader) error {
	status, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	ok := bytes.HasPrefix(status, []byte("HTTP/1.1 200"))
	said := string(status)
	length := -1
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		const name = "Content-Length: "
		if len(line) > len(name) && http.CanonicalHeaderKey(string(line[:len(name)-2])) == name[:len(name)-2] {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return err
			}
		}
	}
	if ok && length >= 0 {
		_, err = in.Discard(length)
		return err
	}
	text, err := io.ReadAll(io.LimitReader(in, int64(max(length, 0))))
	return fmt.Errorf("%s%s %w", said, text, err)
}

// cpuTime is what this process has used of processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
