package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"claude-runner/session"
)

// Of sessions that were answered at once, some agents keep still for a moment, with
// their memory of it to be written down. A runner that is killed then costs none of
// them what was said.
func TestCrashBehindABurst(t *testing.T) {
	const sessions = 5
	for _, backend := range []string{"docker", "podman", "local"} {
		t.Run(backend, func(t *testing.T) {
			c := newCrash(t, backend, sessions)
			eventually(t, 2*time.Minute, "every warm agent has booted", func() bool { return c.warm() == sessions })
			say := func(verb string, i int) (body, key string) {
				return fmt.Sprintf(`{"sessionId": "burst-%d", "message": "%s burst-%d"}`, i, verb, i), fmt.Sprint(verb, i)
			}
			first := make(chan bool, sessions)
			var burst sync.WaitGroup
			for i := range sessions {
				burst.Go(func() {
					body, key := say("say", i)
					if status, _, err := c.try(body, key); err == nil && status == http.StatusOK {
						first <- true
					}
					if answer, err := c.post(body, key); err != nil || answer != "done" {
						t.Errorf("burst-%d is answered %q, %v", i, answer, err)
					}
				})
			}
			select {
			case <-first:
			case <-time.After(time.Minute):
				t.Fatal("no session was answered")
			}
			c.kill()
			c.start()
			burst.Wait()
			for i := range sessions {
				body, key := say("recall", i)
				if answer, err := c.post(body, key); err != nil || answer != "done" {
					t.Errorf("burst-%d is answered %q, %v", i, answer, err)
				}
			}
			recalled := map[string]bool{}
			for _, r := range c.model.Requests() {
				for i := range sessions {
					if r.View.Message == fmt.Sprintf("recall burst-%d", i) {
						recalled[fmt.Sprint(r.View.Earlier)] = true
					}
				}
			}
			for i := range sessions {
				if want := fmt.Sprintf("[say burst-%d]", i); !recalled[want] {
					t.Errorf("no session recalls %s, but %v", want, recalled)
				}
			}
		})
	}
}

// warm returns how many warm agents stand ready.
func (c *crash) warm() int {
	c.t.Helper()
	resp, err := http.Get(c.base + "/backends")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	var states []struct{ Warm []session.PoolState }
	if err := json.NewDecoder(resp.Body).Decode(&states); err != nil {
		c.t.Fatal(err)
	}
	ready := 0
	for _, s := range states {
		for _, pool := range s.Warm {
			ready += pool.Ready
		}
	}
	return ready
}
