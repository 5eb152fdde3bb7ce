package podman

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containers/podman/v5/pkg/bindings"
	"github.com/containers/podman/v5/pkg/errorhandling"

	"claude-runner/backends"
)

// callTimeout bounds a request that the service answers at once.
const callTimeout = 30 * time.Second

// client speaks libpod's API over one service's socket.
type client struct {
	uri     string
	service *service // nil where the service is not ours to start

	slot    chan struct{}        // taken by who connects
	conn    *bindings.Connection // nil until that has succeeded
	version string               // of the service's API
}

// stream is a hijacked connection whose writing side can be closed alone.
type stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// call sends a request with a JSON body and decodes the JSON answer into out;
// both may be nil. An answer that is no success is an *errorhandling.ErrorModel;
// none within callTimeout is ErrUnavailable.
func (c *client) call(ctx context.Context, method, endpoint string, query url.Values, in, out any, names ...string) error {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.send(limited, method, endpoint, query, in, nil, names...)
	if err != nil {
		return c.failure(ctx, method, endpoint, err)
	}
	defer resp.Body.Close()
	if err := resp.Process(out); err != nil {
		return failed(method, endpoint, err)
	}
	return nil
}

// head asks for the headers of an answer and returns its status.
func (c *client) head(ctx context.Context, endpoint string, query url.Values, names ...string) (int, error) {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.send(limited, http.MethodHead, endpoint, query, nil, nil, names...)
	if err != nil {
		return 0, c.failure(ctx, http.MethodHead, endpoint, err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, nil
}

// open sends a request and returns the body of its answer, which may take as
// long as ctx allows.
func (c *client) open(ctx context.Context, method, endpoint string, query url.Values, names ...string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, method, endpoint, query, nil, nil, names...)
	if err != nil {
		return nil, c.failure(ctx, method, endpoint, err)
	}
	if !resp.IsSuccess() {
		defer resp.Body.Close()
		return nil, failed(method, endpoint, resp.Process(nil))
	}
	return resp.Body, nil
}

// attach connects to the container's standard streams and makes the container
// ready to be started. ctx bounds the connecting only.
func (c *client) attach(ctx context.Context, id string) (stream, error) {
	const endpoint = "/containers/%s/attach"
	// No key sequence ends the stream: it carries any bytes.
	query := url.Values{"stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"}, "stream": {"true"}, "detachKeys": {""}}
	hijacked, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	resp, err := c.send(hijacked, http.MethodPost, endpoint, query, nil, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}, id)
	if err != nil {
		cancel()
		return nil, c.failure(ctx, http.MethodPost, endpoint, err)
	}
	s, ok := resp.Body.(stream)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		defer cancel()
		defer resp.Body.Close()
		if err := resp.Process(nil); err != nil {
			return nil, failed(http.MethodPost, endpoint, err)
		}
		return nil, fmt.Errorf("%w: podman at %s answers an attach with %s instead of a stream", backends.ErrUnavailable, c.uri, resp.Status)
	}
	if !stop() {
		cancel()
		s.Close()
		return nil, c.failure(ctx, http.MethodPost, endpoint, context.Cause(ctx))
	}
	return &hijack{stream: s, release: cancel}, nil
}

// hijack is a stream that frees its request's context when it is closed.
type hijack struct {
	stream
	release context.CancelFunc
}

func (h *hijack) Close() error {
	defer h.release()
	return h.stream.Close()
}

// send sends one request. Where the service is ours and nothing listens, it is
// started.
func (c *client) send(ctx context.Context, method, endpoint string, query url.Values, in any, header http.Header, names ...string) (*bindings.APIResponse, error) {
	body := []byte{}
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	for attempt := 0; ; attempt++ {
		resp, err := c.try(ctx, method, endpoint, query, body, header, names...)
		if err == nil {
			return resp, nil
		}
		if c.service == nil || attempt > 0 || !isDialError(err) {
			return nil, err
		}
		if err := c.service.ensure(ctx); err != nil {
			return nil, err
		}
	}
}

// try sends a request once. The bindings' own DoRequest would send it three
// times, which not every request bears, and go on after ctx's end.
func (c *client) try(ctx context.Context, method, endpoint string, query url.Values, body []byte, header http.Header, names ...string) (*bindings.APIResponse, error) {
	conn, version, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	host := "podman" // a unix socket has none
	if conn.URI.Scheme == "tcp" {
		host = conn.URI.Host
	}
	path := []any{}
	for _, n := range names {
		path = append(path, url.PathEscape(n))
	}
	target := "http://" + host + "/v" + version + "/libpod" + fmt.Sprintf(endpoint, path...) + "?" + query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := conn.Client.Do(req) //nolint:bodyclose // The caller closes it.
	if err != nil {
		return nil, err
	}
	return &bindings.APIResponse{Response: resp, Request: req}, nil
}

// connect returns the connection and the service's own version of the API.
func (c *client) connect(ctx context.Context) (*bindings.Connection, string, error) {
	select {
	case c.slot <- struct{}{}:
		defer func() { <-c.slot }()
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
	if c.conn != nil {
		return c.conn, c.version, nil
	}
	connected, err := bindings.NewConnection(ctx, c.uri)
	if err != nil {
		return nil, "", err
	}
	conn, err := bindings.GetClient(connected)
	if err != nil {
		return nil, "", err
	}
	// Each request has a connection of its own: one that is kept goes bad when
	// the service is restarted.
	if t, ok := conn.Client.Transport.(*http.Transport); ok {
		t.DisableKeepAlives = true
		t.CloseIdleConnections()
	}
	v := bindings.ServiceVersion(connected)
	c.conn, c.version = conn, fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	return c.conn, c.version, nil
}

// failure says why there is no answer: the caller's context has ended, or the
// service does not answer.
func (c *client) failure(ctx context.Context, method, endpoint string, err error) error {
	if ctx.Err() != nil {
		return failed(method, endpoint, ctx.Err())
	}
	return fmt.Errorf("%w: podman at %s: %w", backends.ErrUnavailable, c.uri, err)
}

// failed adds to err what was asked for.
func failed(method, endpoint string, err error) error {
	return fmt.Errorf("podman: %s %s: %w", method, strings.ReplaceAll(endpoint, "%s", "ID"), err)
}

// isDialError reports whether nothing listens at the service's address.
func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// status returns the HTTP status of the service's answer that err is, or 0.
func status(err error) int {
	var m *errorhandling.ErrorModel
	if errors.As(err, &m) {
		return m.ResponseCode
	}
	return 0
}

// cause returns the root cause that the service's answer names, which is a
// constant of Podman's and made to be compared.
func cause(err error) string {
	var m *errorhandling.ErrorModel
	if errors.As(err, &m) {
		return m.Because
	}
	return ""
}
