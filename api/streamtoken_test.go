package api_test

import (
	"bufio"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"claude-runner/agent"
	"claude-runner/api"
	"claude-runner/session"
)

// token asks for a stream token.
func (w *world) token(sessionID string) string {
	w.t.Helper()
	a := w.do(http.MethodPost, "/session/"+sessionID+"/stream-token", "")
	if a.status != http.StatusOK {
		w.t.Fatalf("%d %s", a.status, a.body)
	}
	return a.object(w.t)["token"].(string)
}

// TestStreamToken holds that a token opens its session's stream, and nothing
// else.
func TestStreamToken(t *testing.T) {
	for name, change := range map[string]func(*setup){
		"a key that was made":        nil,
		"a key of the configuration": func(s *setup) { s.api.APIKeys = []agent.Secret{"the-configs-key"} },
	} {
		t.Run(name, func(t *testing.T) {
			var w, see *world
			if change != nil {
				w = newWorld(t, change)
				see = w.as(w.key)
			} else {
				w = newWorld(t)
				w.admin()
				_, secret := w.makeKey("web", nil)
				see = w.as(secret)
			}
			see.post("mine", "echo one")
			token := see.token("mine")
			page := w.as("") // a browser has no key

			c, _ := page.open("/stream/mine?after=0&token=" + token)
			if e := c.next(); e.Type != "task_queued" {
				t.Errorf("the first event: %+v", e)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/stream/mine?after=0&token="+token, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept", "text/event-stream")
			resp, err := w.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(resp.Body).ReadString('\n')
			if resp.StatusCode != http.StatusOK || !strings.HasPrefix(line, "retry:") {
				t.Errorf("server-sent events: %d %q %v", resp.StatusCode, line, err)
			}
			resp.Body.Close()

			see.post("other", "echo")
			for path, method := range map[string]string{
				"/stream/other": "GET", "/session/mine": "GET", "/session/mine/events": "GET", "/tasks": "GET", "/sessions": "GET",
				"/task": "POST", "/session/mine/stream-token": "POST", "/nowhere": "GET",
			} {
				a := page.do(method, path+"?token="+token, "", "Accept", "text/event-stream")
				if a.status != http.StatusUnauthorized {
					t.Errorf("%s: %d %s", path, a.status, a.body)
				}
				if a := page.do(method, path, "", "Authorization", "Bearer "+token); a.status != http.StatusUnauthorized {
					t.Errorf("%s, as a key: %d %s", path, a.status, a.body)
				}
			}
			if logged := w.logs.String(); strings.Contains(logged, token) || strings.Contains(logged, token[20:]) {
				t.Error("the log has the token")
			}
		})
	}
}

func TestBadStreamTokens(t *testing.T) {
	w := newWorld(t)
	w.admin()
	k, secret := w.makeKey("web", nil)
	see := w.as(secret)
	good := see.token("mine")
	sign := func(session string, expires time.Duration) string {
		return api.SignStreamToken(w.manager.StreamSecret(), session, k.ID, time.Now().Add(expires))
	}
	for name, c := range map[string]struct{ token, says string }{
		"expired":                    {sign("mine", -time.Second), "expired at"},
		"another session's":          {sign("other", time.Minute), "for another session"},
		"signed by another":          {api.SignStreamToken([]byte("x"), "mine", k.ID, time.Now().Add(time.Minute)), "not one of this runner's"},
		"cut short":                  {good[:len(good)-1], "not one of this runner's"},
		"nonsense":                   {"x", "not one of this runner's"},
		"very long":                  {"crs_" + strings.Repeat("A", 5000), "not one of this runner's"},
		"of a key that is not there": {api.SignStreamToken(w.manager.StreamSecret(), "mine", "aaaaaaaaaaaa", time.Now().Add(time.Minute)), "not known"},
		"of when nobody was asked":   {api.SignStreamToken(w.manager.StreamSecret(), "mine", "", time.Now().Add(time.Minute)), "asked for since"},
		"of a key that was removed":  {api.SignStreamToken(w.manager.StreamSecret(), "mine", "config:0011223344556677", time.Now().Add(time.Minute)), "server.api_keys"},
	} {
		a := w.as("").do(http.MethodGet, "/stream/mine?token="+url.QueryEscape(c.token), "", "Accept", "text/event-stream")
		if a.status != http.StatusUnauthorized || !strings.Contains(a.body, c.says) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	for ttl, want := range map[string]int{"1s": 200, "1h": 200, "61m": 400, "0s": 400, "-1m": 400, "x": 400} {
		if a := see.do(http.MethodPost, "/session/mine/stream-token?ttl="+ttl, ""); a.status != want {
			t.Errorf("ttl=%s: %d %s", ttl, a.status, a.body)
		}
	}
}

// TestStreamEndsWithItsKey holds that an open stream ends when its key is
// revoked, and its token opens no other.
func TestStreamEndsWithItsKey(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.api.StreamPing = 50 * time.Millisecond })
	w.admin()
	_, secret := w.makeKey("web", nil)
	see := w.as(secret)
	token := see.token("mine")
	byKey, _ := see.open("/stream/mine")
	byToken, _ := w.as("").open("/stream/mine?token=" + token)
	if _, err := w.store.RevokeAPIKey(t.Context(), "web", time.Now(), session.AuditEntry{Action: "keys.revoke"}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*client{"opened with the key": byKey, "opened with a token": byToken} {
		_, err := c.read()
		closed, ok := errors.AsType[*websocket.CloseError](err)
		if !ok || closed.Code != websocket.ClosePolicyViolation {
			t.Errorf("%s: ended with %v", name, err)
		}
	}
	if a := w.as("").do(http.MethodGet, "/stream/mine?token="+token, "", "Accept", "text/event-stream"); a.status != http.StatusUnauthorized || !strings.Contains(a.body, "was revoked") {
		t.Errorf("its token: %d %s", a.status, a.body)
	}
}

// TestStreamOfASessionThatBecomesAnothers holds that a stream which was opened
// before its session was there shows nothing of another key's.
func TestStreamOfASessionThatBecomesAnothers(t *testing.T) {
	w := newWorld(t)
	w.admin()
	_, a := w.makeKey("alice", nil)
	_, b := w.makeKey("bob", nil)
	c, _ := w.as(b).open("/stream/later")
	w.as(a).post("later", "echo alices-words")
	data, err := c.read()
	if err == nil || len(data) > 0 {
		t.Errorf("it goes on with %s, %v", data, err)
	}
	mine, _ := w.as(b).open("/stream/mine-later")
	w.as(b).post("mine-later", "echo")
	if e := mine.next(); e.Type != "task_queued" {
		t.Errorf("its own begins with %+v", e)
	}
}

// FuzzStreamToken holds that nothing is taken for a token that was not signed.
func FuzzStreamToken(f *testing.F) {
	secret := []byte("the secret")
	good := api.SignStreamToken(secret, "s", "key", time.Unix(1e9, 0))
	f.Add(good)
	f.Add("crs_.")
	f.Add("crs_AAAA.AAAA")
	f.Add(good + "=")
	f.Fuzz(func(t *testing.T, text string) {
		id, bound, expires, ok := api.ReadStreamToken(secret, text)
		if ok && api.SignStreamToken(secret, id, bound, expires) != text {
			t.Errorf("%q is taken for session %q of %q", text, id, bound)
		}
		if ok && text != good {
			t.Errorf("%q is taken", text)
		}
	})
}

// FuzzBearer holds what is read of an Authorization header.
func FuzzBearer(f *testing.F) {
	for _, seed := range []string{"", "Bearer", "Bearer x", "bearer  x ", "Basic x", "Bearer crk_abcdefghij_" + strings.Repeat("a", 43)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		token, ok := api.Bearer(header)
		if ok && (token == "" || strings.TrimSpace(token) != token || !strings.EqualFold(header[:6], "bearer")) {
			t.Errorf("%q: %q", header, token)
		}
		if id := session.SecretID(token); id != "" && !strings.HasPrefix(token, "crk_"+id+"_") {
			t.Errorf("%q has the id %q", token, id)
		}
	})
}
