package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"claude-runner/session"
)

// caller is who makes a request.
type caller struct {
	session.Caller
	// bound names what lets the caller in: the id of an API key, "config:" and a
	// key of the configuration's fingerprint, or "" where no keys are asked for.
	bound string
}

// configBound begins the names of the configuration's keys.
const configBound = "config:"

// configKey is a key of the configuration.
type configKey struct {
	sum  [sha256.Size]byte
	name string // such as server.api_keys[0]
}

func (k configKey) caller() caller {
	return caller{Caller: session.Caller{Name: k.name}, bound: configBound + hex.EncodeToString(k.sum[:8])}
}

const askForKey = "send the header 'Authorization: Bearer KEY' with one of the keys in server.api_keys, or one that 'claude-runner keys create' made"

// identify returns who makes a request for r.
func (a *access) identify(ctx context.Context, c *fiber.Ctx, r route) (caller, error) {
	header := c.Get(fiber.HeaderAuthorization)
	if token := c.Query("token"); token != "" && header == "" && r.path == streamPath {
		return a.identifyStream(ctx, c, token)
	}
	secret, ok := bearer(header)
	if k, found := a.configured(sha256.Sum256([]byte(secret))); ok && found {
		return k.caller(), nil
	}
	// Who sends a key that was made is its caller, where it is not asked for yet
	// too.
	if session.SecretID(secret) == "" {
		if asks, err := a.asks(ctx); err != nil || !asks {
			return caller{}, err
		}
	}
	if !ok {
		return caller{}, unauthorized(askForKey)
	}
	key, err := a.ring.Find(ctx, secret)
	if err != nil {
		return caller{}, refused(err)
	}
	return caller{key.Caller(), key.ID}, nil
}

// identifyStream returns in whose name a stream token speaks.
func (a *access) identifyStream(ctx context.Context, c *fiber.Ctx, token string) (caller, error) {
	id, err := sessionID(c)
	if err != nil {
		return caller{}, err
	}
	bound, err := checkToken(a.secret, token, id, time.Now())
	if err != nil {
		return caller{}, err
	}
	return a.holder(ctx, bound)
}

// holder returns who is let in by what bound names, if that still lets anybody
// in.
func (a *access) holder(ctx context.Context, bound string) (caller, error) {
	if bound == "" {
		asks, err := a.asks(ctx)
		if err == nil && asks {
			err = unauthorized("keys are asked for since this stream's token was made; " + askForKey)
		}
		return caller{}, err
	}
	if strings.HasPrefix(bound, configBound) {
		for _, k := range a.keys {
			if who := k.caller(); who.bound == bound {
				return who, nil
			}
		}
		return caller{}, unauthorized("the key is no longer in server.api_keys; " + askForKey)
	}
	key, err := a.ring.ByID(ctx, bound)
	if err != nil {
		return caller{}, refused(err)
	}
	return caller{key.Caller(), key.ID}, nil
}

// asks reports whether callers are asked for a key: where there are any.
func (a *access) asks(ctx context.Context) (bool, error) {
	if len(a.keys) > 0 {
		return true, nil
	}
	return a.ring.Any(ctx)
}

// configured returns the key of the configuration that has the sum. How long it
// takes tells nothing of the keys.
func (a *access) configured(sum [sha256.Size]byte) (configKey, bool) {
	found := -1
	for i, k := range a.keys {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(sum[:], k.sum[:]), i, found)
	}
	if found < 0 {
		return configKey{}, false
	}
	return a.keys[found], true
}

// bearer returns the token of an Authorization header.
func bearer(header string) (string, bool) {
	scheme, token, _ := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	return token, strings.EqualFold(scheme, "Bearer") && token != ""
}

// refused is a key's trouble as the client is told it.
func refused(err error) error {
	bad, ok := errors.AsType[*session.KeyError](err)
	switch {
	case !ok:
		return err
	case bad.Name == "":
		return unauthorized(bad.Error() + "; " + askForKey)
	}
	return unauthorized(bad.Error() + "; ask for a new one")
}
