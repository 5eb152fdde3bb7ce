package agent_test

import (
	"encoding/base64"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"claude-runner/agent"
)

func TestCheckAddress(t *testing.T) {
	const public, private, special = "public", "private", "special"
	for text, want := range map[string]string{
		"93.184.215.14": public, "1.1.1.1": public, "172.15.255.255": public, "172.32.0.0": public, "100.63.255.255": public,
		"100.128.0.0": public, "169.253.255.255": public, "223.255.255.255": public, "198.17.255.255": public,
		"2606:2800:21f:cb07:6820:80da:af6b:8b2c": public, "2a00::1": public, "2001:4860:4860::8888": public,
		"::ffff:1.1.1.1": public, "64:ff9b::1.1.1.1": public,

		"127.0.0.1": private, "127.255.255.254": private, "::1": private, "10.0.0.1": private, "172.16.0.1": private,
		"172.31.255.255": private, "192.168.1.1": private, "100.64.0.1": private, "100.127.255.255": private, "198.18.0.1": private,
		"198.19.255.255": private, "fc00::1": private, "fdff::1": private, "::ffff:127.0.0.1": private, "::ffff:10.1.2.3": private,
		"64:ff9b::127.0.0.1": private, "64:ff9b::192.168.0.1": private,

		"0.0.0.0": special, "0.1.2.3": special, "::": special, "169.254.169.254": special, "169.254.0.1": special,
		"fe80::1": special, "fe80::1%eth0": special, "febf::1": special, "fec0::1": special, "224.0.0.1": special, "239.255.255.255": special,
		"ff02::1": special, "240.0.0.1": special, "255.255.255.255": special, "192.0.0.192": special, "192.0.2.1": special,
		"198.51.100.1": special, "203.0.113.1": special, "192.88.99.1": special, "168.63.129.16": special, "100.100.100.200": special,
		"fd00:ec2::254": special, "fd20:ce::254": special, "2001:db8::1": special, "2001::1": special, "2002:7f00:1::": special,
		"3fff::1": special, "64:ff9b:1::1": special, "::7f00:1": special, "100::1": special, "4000::1": special,
		"::ffff:169.254.169.254": special, "64:ff9b::169.254.169.254": special, "::ffff:0.0.0.0": special,
	} {
		addr := netip.MustParseAddr(text)
		strict, lax := agent.CheckAddress(addr, false), agent.CheckAddress(addr, true)
		var wantStrict, wantLax error
		switch want {
		case private:
			wantStrict = agent.ErrPrivateAddress
		case special:
			wantStrict, wantLax = agent.ErrSpecialAddress, agent.ErrSpecialAddress
		}
		if !errors.Is(strict, wantStrict) || !errors.Is(lax, wantLax) {
			t.Errorf("%s: %v, and with private ones allowed %v; want it %s", text, strict, lax, want)
		}
	}
}

func TestWebhookURL(t *testing.T) {
	for url, want := range map[string]string{
		"https://example.com/hooks":                  "",
		"http://example.com:8080":                    "",
		"https://93.184.215.14/x?token=abc":          "",
		"":                                           "is missing",
		"example.com/hooks":                          "no URL of a server",
		"ftp://example.com/":                         "no URL of a server",
		"https:///hooks":                             "no URL of a server",
		"https:hooks":                                "no URL of a server",
		"https://exa mple.com/":                      "no URL of a server",
		"https://user@example.com/":                  "remove it",
		"https://user:pass@example.com/":             "remove it",
		"https://example.com/#part":                  "goes on with #",
		"https://example.com:0/":                     "port number",
		"https://example.com:65536/":                 "port number",
		"https://127.0.0.1/":                         "allow_private",
		"https://[::1]:8080/":                        "allow_private",
		"https://[::ffff:10.0.0.1]/":                 "allow_private",
		"http://localhost:3000/":                     "allow_private",
		"http://LocalHost./":                         "allow_private",
		"http://app.localhost/":                      "allow_private",
		"http://169.254.169.254/":                    "no server's",
		"http://[fe80::1%25eth0]/":                   "no server's",
		"https://e.com/" + strings.Repeat("x", 2048): "too long",
	} {
		err := agent.Webhook{URL: url}.CheckURL(false)
		if got := message(err); !strings.Contains(got, want) || want == "" && err != nil {
			t.Errorf("%.80q: %q, want …%s…", url, got, want)
		}
		if err != nil && strings.Contains(err.Error(), "pass") && !strings.Contains(err.Error(), "password") {
			t.Errorf("%q is quoted: %s", url, err)
		}
	}
	if err := (agent.Webhook{URL: "http://localhost:3000/"}).CheckURL(true); err != nil {
		t.Errorf("with private ones allowed: %v", err)
	}
}

func TestWebhookSecret(t *testing.T) {
	of := func(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for secret, want := range map[string]string{
		of(24): "", of(32): "", of(64): "",
		"": "is missing", of(23): "has 23 bytes", of(65): "has 65 bytes", "whsec_": "has 0 bytes",
		strings.TrimPrefix(of(32), "whsec_"): "does not begin with whsec_",
		"whsec_never-show-me":                "not in base64",
	} {
		err := agent.Webhook{Secret: agent.Secret(secret)}.CheckSecret()
		if got := message(err); !strings.Contains(got, want) || want == "" && err != nil {
			t.Errorf("%q: %q, want …%s…", secret, got, want)
		}
		if strings.Contains(message(err), "never-show-me") {
			t.Errorf("the secret is quoted: %v", err)
		}
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
