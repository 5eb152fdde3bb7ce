package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"claude-runner/session"
)

// streamToken lets a browser, which can't send a header with a WebSocket, read
// one session's stream for a short time, in the name of who asked for it.
type streamToken struct {
	session string
	bound   string // as caller.bound
	expires time.Time
}

const (
	tokenPrefix  = "crs_"
	tokenDomain  = "claude-runner stream token 1\n" // what is signed begins with it
	maxToken     = 1 << 10                          // bytes
	defaultLife  = 10 * time.Minute
	longestLife  = time.Hour
	shortestLife = time.Second
)

// sign writes the token: the payload, and its HMAC-SHA256.
func (t streamToken) sign(secret []byte) string {
	payload := binary.BigEndian.AppendUint64(nil, uint64(t.expires.Unix()))
	payload = append(payload, byte(len(t.bound)))
	payload = append(payload, t.bound...)
	payload = append(payload, t.session...)
	enc := base64.RawURLEncoding
	return tokenPrefix + enc.EncodeToString(payload) + "." + enc.EncodeToString(tokenMAC(secret, payload))
}

func tokenMAC(secret, payload []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(tokenDomain))
	mac.Write(payload)
	return mac.Sum(nil)
}

// readStreamToken returns what a token says, if it was signed with the secret.
func readStreamToken(secret []byte, text string) (streamToken, bool) {
	body, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(text) > maxToken {
		return streamToken{}, false
	}
	encoded, sum, _ := strings.Cut(body, ".")
	enc := base64.RawURLEncoding.Strict()
	payload, err := enc.DecodeString(encoded)
	if err != nil {
		return streamToken{}, false
	}
	mac, err := enc.DecodeString(sum)
	if err != nil || !hmac.Equal(mac, tokenMAC(secret, payload)) {
		return streamToken{}, false
	}
	if len(payload) < 9 || len(payload) < 9+int(payload[8]) {
		return streamToken{}, false
	}
	n := 9 + int(payload[8])
	return streamToken{
		session: string(payload[n:]), bound: string(payload[9:n]),
		expires: time.Unix(int64(binary.BigEndian.Uint64(payload)), 0).UTC(),
	}, true
}

// tokenView is the answer of POST /session/:sessionId/stream-token.
type tokenView struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expiresAt"`
}

// streamToken answers POST /session/:sessionId/stream-token?ttl=. The session
// need not be there yet.
func (s *Server) streamToken(c *fiber.Ctx) error {
	id, err := sessionID(c)
	if err != nil {
		return err
	}
	life, err := tokenLife(c)
	if err != nil {
		return err
	}
	if err := s.view(c).MayFollow(s.root, id); err != nil {
		return err
	}
	t := streamToken{session: id, bound: callerOf(c).bound, expires: time.Now().Add(life).UTC().Truncate(time.Second)}
	return c.JSON(tokenView{Token: t.sign(s.manager.StreamSecret()), ExpiresAt: t.expires})
}

func tokenLife(c *fiber.Ctx) (time.Duration, error) {
	q, err := query(c, "ttl")
	if err != nil || !q.Has("ttl") {
		return defaultLife, err
	}
	d, err := time.ParseDuration(q.Get("ttl"))
	if err != nil || d < shortestLife || d > longestLife {
		return 0, invalid("ttl", "want a time from %v to %v, such as 10m, got %q", shortestLife, longestLife, shown(q.Get("ttl")))
	}
	return d, nil
}

// checkToken returns what a stream's token is bound to.
func checkToken(secret []byte, text, sessionID string, now time.Time) (bound string, err error) {
	ask := fmt.Sprintf("POST /session/%s/stream-token gives a new one", sessionID)
	t, ok := readStreamToken(secret, text)
	switch {
	case !ok:
		return "", unauthorized("the stream token is not one of this runner's; " + ask)
	case t.session != sessionID:
		return "", unauthorized("the stream token is for another session; " + ask)
	case !now.Before(t.expires):
		return "", unauthorized("the stream token expired at " + t.expires.Format(time.RFC3339) + "; " + ask)
	}
	return t.bound, nil
}

func unauthorized(message string) *session.Error {
	return &session.Error{Code: CodeUnauthorized, Message: message}
}
