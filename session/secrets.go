package session

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"claude-runner/agent"
)

// secretValues returns what a task must not tell: the credentials of the model
// API, the profile's secrets, and those values of its plain environment and of
// the task's own that look like secrets.
func secretValues(apis []agent.ModelAPI, p agent.Profile, env map[string]string) []string {
	var values []string
	for _, api := range apis {
		values = append(values, api.APIKey.Reveal(), api.AuthToken.Reveal(), api.OAuthToken.Reveal())
	}
	for _, rule := range p.Egress {
		for _, value := range rule.Headers {
			values = append(values, strings.TrimPrefix(value.Reveal(), "Bearer "))
		}
	}
	for _, s := range p.Secrets {
		values = append(values, s.Reveal())
	}
	for _, variables := range []map[string]string{p.Env, env} {
		for name, value := range variables {
			switch {
			case namesSecret(name) || looksRandom(value):
				values = append(values, value)
			case strings.Contains(value, "://"):
				values = append(values, passwordOf(value))
			}
		}
	}
	return values
}

// secretWords are what the names of secret variables end with.
var secretWords = []string{
	"TOKEN", "TOKENS", "KEY", "KEYS", "APIKEY", "SECRET", "SECRETS", "PASSWORD", "PASSWORDS", "PASSWD", "PASSPHRASE",
	"PASS", "CREDENTIAL", "CREDENTIALS", "AUTH", "AUTHORIZATION", "COOKIE", "BEARER", "JWT", "PAT", "PRIVATE",
}

// namesSecret reports whether a variable's name says that it holds a secret, as
// API_TOKEN, dbPassword and SECRET_KEY_2 do.
func namesSecret(name string) bool {
	name = strings.TrimRight(name, "_0123456789")
	last := name[strings.LastIndexByte(name, '_')+1:]
	if last != strings.ToUpper(last) {
		last = last[max(0, strings.LastIndexFunc(last, unicode.IsUpper)):] // of camelCase
	}
	return slices.Contains(secretWords, strings.ToUpper(last)) || strings.HasSuffix(name, "_PWD")
}

// looksRandom reports whether a value can only be a secret that a machine made:
// long, of one word, with letters of both cases and digits all mixed. Names,
// addresses, paths, versions, UUIDs and dates are not.
func looksRandom(value string) bool {
	const shortest, bits = 20, 3.7
	if len(value) < shortest || strings.ContainsAny(value, " \t\r\n") || strings.Contains(value, "://") || strings.HasPrefix(value, "/") {
		return false
	}
	var upper, lower, digit bool
	counts := map[rune]int{}
	for _, r := range value {
		upper, lower, digit = upper || unicode.IsUpper(r), lower || unicode.IsLower(r), digit || unicode.IsDigit(r)
		counts[r]++
	}
	if !upper || !lower || !digit {
		return false
	}
	entropy, total := 0.0, float64(len([]rune(value)))
	for _, n := range counts {
		p := float64(n) / total
		entropy -= p * math.Log2(p)
	}
	return entropy >= bits
}

// passwordOf returns the password in a URL; "" where there is none.
func passwordOf(value string) string {
	u, err := url.Parse(value)
	if err != nil || u.User == nil {
		return ""
	}
	password, _ := u.User.Password()
	return password
}

const (
	// shortestSecret is the length from which a value is masked: shorter ones
	// would blot out half of every message.
	shortestSecret = 6
	// shortestLine is the same for a line of a value of many lines, and for an
	// encoding of a part of it.
	shortestLine = 12
)

// spellings returns the ways in which secrets are written: as they are, line
// by line, escaped for JSON and for URLs, as base64 at any place in what is
// encoded with them, and as hexadecimal digits.
func spellings(values []string) []string {
	var out []string
	add := func(shortest int, texts ...string) {
		for _, text := range texts {
			if len(text) >= shortest {
				out = append(out, text)
			}
		}
	}
	for _, value := range values {
		value = strings.TrimSpace(value)
		if len(value) < shortestSecret {
			continue
		}
		add(shortestSecret, value, url.QueryEscape(value), url.PathEscape(value))
		escaped, err := json.Marshal(value)
		if err == nil {
			add(shortestSecret, string(escaped[1:len(escaped)-1]), plainJSON(value))
		}
		if strings.Contains(value, "\n") {
			for line := range strings.Lines(value) {
				add(shortestLine, strings.TrimSpace(line))
			}
		}
		add(shortestSecret, hex.EncodeToString([]byte(value)), strings.ToUpper(hex.EncodeToString([]byte(value))))
		for from := range min(3, len(value)) { // which of three places it has in its group
			part := []byte(value[from:])
			for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
				if from == 0 {
					add(shortestSecret, e.EncodeToString(part), e.WithPadding(base64.NoPadding).EncodeToString(part))
				}
				add(shortestLine, e.EncodeToString(part[:len(part)/3*3]))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// plainJSON escapes a text for JSON as most programs do: <, > and & stay.
func plainJSON(value string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(value) != nil {
		return ""
	}
	text := strings.TrimSuffix(b.String(), "\n")
	return text[1 : len(text)-1]
}
