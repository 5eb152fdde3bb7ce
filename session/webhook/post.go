package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"claude-runner/agent"
	"claude-runner/session"
)

// maxAnswer is how much of a receiver's answer is read, in bytes: enough for
// its connection to be used again. None of it is kept.
const maxAnswer = 16 << 10

// post makes one attempt.
func (s *Sender) post(ctx context.Context, d session.Delivery, hook agent.Webhook) outcome {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	req, err := s.request(ctx, d, hook)
	if err != nil {
		return outcome{err: err}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return outcome{err: s.reason(err)}
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // the status says it all
	if resp.StatusCode/100 == 2 {
		return outcome{status: resp.StatusCode}
	}
	return outcome{status: resp.StatusCode, retryAfter: retryAfter(resp.Header, s.opts.Now()), err: refused(resp.StatusCode)}
}

// request makes a signed request.
func (s *Sender) request(ctx context.Context, d session.Delivery, hook agent.Webhook) (*http.Request, error) {
	if hook.URL == "" {
		return nil, fmt.Errorf("agent %q has no webhook any more", d.Agent)
	}
	signer, err := standardwebhooks.NewWebhook(hook.Secret.Reveal())
	if err != nil {
		return nil, errors.New("the webhook's secret is not in base64")
	}
	now := s.opts.Now()
	signature, err := signer.Sign(d.ID, now, d.Payload)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(d.Payload))
	if err != nil {
		return nil, errors.New("the webhook's URL can't be read")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "claude-runner")
	req.Header.Set(standardwebhooks.HeaderWebhookID, d.ID)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	return req, nil
}

// newClient returns a client that calls no address that is not allowed. The
// address is checked when it is dialled, behind the name's resolution: what the
// name stood for before means nothing. A proxy would dial by itself, so the
// environment's is not used; a redirect is an answer like any other.
func newClient(allowPrivate bool) *http.Client {
	dialer := &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("read address: %w", err)
		}
		return agent.CheckAddress(to.Addr(), allowPrivate)
	}}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: maxAttemptsPerHost, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// reason says why no answer came, without the URL and without what addresses
// the runner sees.
func (s *Sender) reason(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v", s.opts.Timeout)
	}
	for _, refusal := range []error{agent.ErrPrivateAddress, agent.ErrSpecialAddress} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("the receiver is at %w", refusal)
		}
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		if e.IsNotFound {
			return errors.New("the receiver's name is not known")
		}
		return errors.New("the receiver's name could not be looked up")
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
