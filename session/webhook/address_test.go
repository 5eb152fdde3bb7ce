package webhook_test

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"claude-runner/session"
	"claude-runner/session/webhook"
)

// A real receiver on this host, called by each of its names: what counts is the
// address that is dialled.
func TestAddressesThatAreNotCalled(t *testing.T) {
	r := newReceiver(t, statuses(http.StatusOK))
	u, err := url.Parse(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	port := ":" + u.Port()
	public := newWorld(t, func(o *webhook.Options) { o.AllowPrivate = false })
	private := newWorld(t, nil)
	for i, c := range []struct {
		host string
		w    *world
		want string
	}{
		{"127.0.0.1", public, "allow_private"},
		{"localhost", public, "allow_private"},
		{"[::1]", public, "allow_private"},
		{"[::ffff:127.0.0.1]", public, "allow_private"},
		{"[64:ff9b::7f00:1]", public, "allow_private"},
		{"10.255.255.254", public, "allow_private"},
		{"0.0.0.0", public, "no server's"},
		{"0.0.0.0", private, "no server's"},
		{"[::]", private, "no server's"},
		{"169.254.169.254", private, "no server's"},
	} {
		t.Run(c.host, func(t *testing.T) {
			id := "m" + strconv.Itoa(i)
			c.w.enqueue(id, "http://"+c.host+port+"/")
			d := c.w.attempted(id, 1)
			if d.State != session.DeliveryPending || d.LastStatus != 0 || !strings.Contains(d.LastError, c.want) {
				t.Errorf("it is %s: %d %q, want …%s…", d.State, d.LastStatus, d.LastError, c.want)
			}
		})
	}
	if n := len(r.messages()); n != 0 {
		t.Errorf("the receiver was called %d times", n)
	}
}
