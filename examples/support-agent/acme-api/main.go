// Command acme-api stands in for a company's own API: the customers, usage and
// tickets that the support agent's tool asks for. It keeps everything in memory.
//
//	ACME_API_TOKEN=secret go run ./examples/support-agent/acme-api --listen 127.0.0.1:3457
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:3457", "address to listen on; agents reach it through the runner, so loopback will do; port 0 takes a free one")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *listen, os.Getenv("ACME_API_TOKEN"))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "acme-api:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. It prints its address once it accepts connections.
func run(ctx context.Context, listen, token string) error {
	if token == "" {
		return errors.New("ACME_API_TOKEN is empty: set it to the bearer token that clients must send")
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{
		Handler:           newAPI(token, newStore(time.Now)),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Println("AcmeApp API at", localURL(listener.Addr()))

	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
		ending, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return server.Shutdown(ending)
	}
}

// localURL is addr as a client on this machine writes it.
func localURL(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "http://" + addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "http://" + host + ":" + port
}
