package agent

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Webhook is where the end of a task is told, and what the message is signed
// with. The zero Webhook tells nobody.
type Webhook struct {
	URL string `koanf:"url"`
	// Secret is "whsec_" and 24 to 64 bytes in base64, as Standard Webhooks
	// writes it (https://www.standardwebhooks.com).
	Secret Secret `koanf:"secret"`
}

const (
	maxWebhookURL       = 2048 // bytes
	webhookSecretPrefix = "whsec_"
	minWebhookSecret    = 24 // bytes of the key
	maxWebhookSecret    = 64
)

// CheckURL says what is wrong with the URL; the error goes on after its name.
// It does not quote the URL, which may hold a token. A host that is written as
// an address is held to CheckAddress; what a name stands for is known only when
// it is called.
func (w Webhook) CheckURL(allowPrivate bool) error {
	u, err := url.Parse(w.URL)
	switch {
	case w.URL == "":
		return errors.New("is missing: write one such as https://example.com/hooks")
	case len(w.URL) > maxWebhookURL:
		return fmt.Errorf("is too long: a URL has at most %d bytes", maxWebhookURL)
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("is no URL of a server: write one such as https://example.com/hooks")
	case u.User != nil:
		return errors.New("holds a name or a password: remove it; the signature tells the receiver who sends")
	case u.Fragment != "":
		return errors.New("goes on with #: write it without")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("has no port number from 1 to 65535: correct it, or leave it out")
		}
	}
	return checkHost(u.Hostname(), allowPrivate)
}

// checkHost is CheckAddress for a host that says its address.
func checkHost(host string, allowPrivate bool) error {
	name := strings.ToLower(strings.TrimRight(host, "."))
	addr, err := netip.ParseAddr(name)
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		addr, err = netip.IPv6Loopback(), nil
	}
	if err != nil {
		return nil // a name
	}
	if err := CheckAddress(addr, allowPrivate); err != nil {
		return fmt.Errorf("is at %w", err)
	}
	return nil
}

// CheckSecret says what is wrong with the secret; the error goes on after its
// name.
func (w Webhook) CheckSecret() error {
	const form = "write " + webhookSecretPrefix + " and 24 to 64 random bytes in base64, such as `echo " + webhookSecretPrefix + "$(openssl rand -base64 32)` prints"
	encoded, ok := strings.CutPrefix(w.Secret.Reveal(), webhookSecretPrefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	switch {
	case w.Secret == "":
		return errors.New("is missing: messages are signed with it; " + form)
	case !ok:
		return errors.New("does not begin with " + webhookSecretPrefix + ": " + form)
	case err != nil:
		return errors.New("is not in base64: " + form)
	case len(key) < minWebhookSecret || len(key) > maxWebhookSecret:
		return fmt.Errorf("has %d bytes: %s", len(key), form)
	}
	return nil
}
