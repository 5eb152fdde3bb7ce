package inside

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxConnections are forwarded at once; more wait to be accepted.
	maxConnections = 256

	// patience is how long a connection waits for the gateway, which is away
	// while the runner restarts. The waits between two looks grow.
	patience  = 60 * time.Second
	firstWait = 5 * time.Millisecond
	lastWait  = 250 * time.Millisecond
)

// listen opens the loopback port that leads to the gateway's socket, for as long
// as the process lives, and returns its address.
func listen(gateway string) (string, error) {
	l, address, err := listenLoopback()
	if err != nil {
		return "", fmt.Errorf("listen on the sandbox's loopback: %w", err)
	}
	f := &forwarder{listener: l, gateway: gateway, slots: make(chan struct{}, maxConnections)}
	go f.serve()
	return address, nil
}

// forwarder joins connections to the gateway's socket.
type forwarder struct {
	listener *os.File
	gateway  string        // its socket's path
	slots    chan struct{} // one is taken by each connection
	missed   atomic.Bool   // that the gateway was not there has been said
}

func (f *forwarder) serve() {
	for {
		f.slots <- struct{}{}
		conn, err := accept(f.listener)
		if err != nil { // of too many open files, which passes
			<-f.slots
			time.Sleep(lastWait)
			continue
		}
		go func() {
			defer func() { <-f.slots }()
			f.forward(conn)
		}()
	}
}

// forward carries bytes between conn and the gateway until both sides have
// ended, or one has failed.
func (f *forwarder) forward(conn socket) {
	defer conn.Close()
	gateway, err := f.dial()
	if err != nil {
		if !f.missed.Swap(true) {
			fmt.Fprintf(os.Stderr, "%s: the gateway does not answer: %v\n", Name, err)
		}
		return
	}
	f.missed.Store(false)
	defer gateway.Close()
	var both sync.WaitGroup
	both.Go(func() { carry(gateway, conn) })
	both.Go(func() { carry(conn, gateway) })
	both.Wait()
}

// dial connects to the gateway, or waits until it can.
func (f *forwarder) dial() (socket, error) {
	deadline := time.Now().Add(patience)
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		conn, err := dialUnix(f.gateway)
		if err == nil || time.Now().Add(wait).After(deadline) {
			return conn, err
		}
		time.Sleep(wait)
	}
}

// carry copies to the end of one direction and passes that end on. Where it
// fails, the connection as a whole has.
func carry(to, from socket) {
	err := from.copyTo(to)
	if err == nil {
		err = to.closeWrite()
	}
	if err != nil {
		_ = to.Close()
		_ = from.Close()
	}
}
