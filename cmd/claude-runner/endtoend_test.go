package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"claude-runner/agent/scripted"
	"claude-runner/backends"
	"claude-runner/backends/backendtest"
)

// endToEndCases are what a client may expect of a server, whatever its backend.
// Those that measure how soon something is gone have the machine to themselves.
var endToEndCases = []struct {
	name  string
	alone bool
	run   func(*testing.T, *deployment)
}{
	{"abort while a tool runs", true, testAbortTool},
	{"time-out", true, testTimeout},

	{"tools and output", false, testToolsAndOutput},
	{"sessions are isolated", false, testIsolation},
	{"memory", false, testMemory},
	{"list and details", false, testListAndDetails},
	{"reset", false, testReset},
	{"delete", false, testDelete},
	{"cost", false, testCost},
	{"agent that stays", false, testAgentStays},
	{"context", false, testContext},
	{"env", false, testEnv},
	{"message like a command", false, testSlash},
	{"planted settings", false, testPlantedSettings},

	{"stream", false, testStream},
	{"stream of two clients", false, testStreamFollowers},
	{"abort while the model speaks", false, testAbortSpeech},
	{"abort and the queue", false, testAbortQueue},
	{"queue order", false, testQueueOrder},
	{"client that leaves", false, testClientLeaves},

	{"model that fails", false, testModelFails},
	{"model that recovers", false, testModelRecovers},
	{"model that is cut off", false, testModelCut},
	{"model that is silent", false, testModelSilent},
	{"killed agent", false, testKilledAgent},
	{"out of memory", false, testOutOfMemory},
	{"too many turns", false, testMaxTurns},
	{"output by schema", false, testOutputBySchema},
	{"output in words", false, testOutputInWords},
	{"secrets", false, testSecrets},
	{"budgets", false, testBudgets},
	{"egress", false, testEgress},
	{"secrets that tools say", false, testToldSecrets},
}

// TestEndToEnd runs tasks over HTTP with the real CLI in sandboxes of each
// backend. Only the model is scripted.
func TestEndToEnd(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			t.Parallel()
			d := deploy(t, kind.Name)
			for _, c := range endToEndCases {
				if !c.alone {
					t.Run(c.name, func(t *testing.T) {
						t.Parallel()
						c.run(t, d)
					})
				}
			}
		})
	}
}

// TestEndToEndAlone is TestEndToEnd for the cases that measure.
func TestEndToEndAlone(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			d := deploy(t, kind.Name)
			for _, c := range endToEndCases {
				if c.alone {
					t.Run(c.name, func(t *testing.T) { c.run(t, d) })
				}
			}
		})
	}
}

// deployment is a server whose agents run on one backend.
type deployment struct {
	*program
	kind         string
	acmePort     string           // where a company's API is, which the support agent may call
	site         *httptest.Server // which the agents caller and attacker may call
	sitePort     string
	model        *scripted.Server
	capabilities backends.Capabilities
}

// deploy starts a server of testConfig. It skips the test where the backend
// can't run agents here, or fails it where it has to.
func deploy(t *testing.T, kind string) *deployment {
	t.Helper()
	port := startAcme(t)
	d := deployWith(t, kind, deployOptions{env: []string{"ACME_PORT", port}})
	d.acmePort = port
	return d
}

// deployOptions change a deployment.
type deployOptions struct {
	model        scripted.Options
	modelAddress string   // where the model listens; "" is this host's loopback
	env          []string // variables of the server, in pairs
}

// deployWith is deploy for a test of its own kind, without the company's API.
func deployWith(t *testing.T, kind string, o deployOptions) *deployment {
	t.Helper()
	site := startSite(t)
	o.model.KeepRequests = 5000
	model, url := startModelOn(t, cmp.Or(o.modelAddress, "127.0.0.1:0"), "testdata/script.yaml", o.model)
	env := with(variables(t, kind, url), append(o.env, "SITE_PORT", portOf(site.URL))...)
	p := startProgram(t, loadConfig(t, testConfig, env))
	requireAgent(t, p, kind)
	d := &deployment{program: p, kind: kind, site: site, sitePort: portOf(site.URL), model: model}
	b, _ := p.backends.Backend(kind)
	d.capabilities = b.Capabilities()
	t.Cleanup(func() {
		d.checkNothingLeft(t)
		d.checkLogs(t)
	})
	return d
}

// requireAgent holds that an agent can run on a backend here: its engine
// answers, and has the image.
func requireAgent(t testing.TB, p *program, kind string) {
	t.Helper()
	var states []struct {
		Name, Error string
		Healthy     bool
	}
	p.get(t, "/backends", &states)
	for _, s := range states {
		if s.Name == kind && !s.Healthy {
			backendtest.Require(t, kind, errors.New(s.Error))
		}
	}
	r := p.chat(t, "").other("first").with("backend", kind).send("say: ready")
	if r.Code == "image_not_found" {
		backendtest.Require(t, kind, errors.New(r.Error))
	}
	if r.status != http.StatusOK {
		t.Fatalf("the first task on %s: %d %s", kind, r.status, r.body)
	}
}

// sandboxes lists the sandboxes that a backend still has of a session.
func (d *deployment) sandboxes(t testing.TB, session string) []string {
	t.Helper()
	b, _ := d.backends.Backend(d.kind)
	handles, err := b.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range handles {
		if h.Labels["claude-runner.session"] == session {
			names = append(names, h.Name)
		}
	}
	return names
}

// checkNothingLeft holds that a server which has stopped left no process that
// works for it.
func (d *deployment) checkNothingLeft(t *testing.T) {
	if err := d.stop(); err != nil {
		t.Errorf("stop the program: %v", err)
	}
	if left := processes(t, d.cfg.DataDir); len(left) > 0 {
		t.Errorf("processes are left:\n%s", strings.Join(left, "\n"))
	}
}

// checkLogs holds that all the log, at its lowest level, says no secret and
// nothing of an error that nobody thought of.
func (d *deployment) checkLogs(t *testing.T) {
	for line := range strings.Lines(d.logs.String()) {
		for _, secret := range []string{modelKey, profileSecret, acmeToken, taskSecret} {
			if strings.Contains(line, secret) {
				t.Errorf("the log shows a secret: %s", line)
			}
		}
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic") {
			t.Errorf("the log has an error: %s", line)
		}
	}
}

var sleeps atomic.Int64

// unique is a number of seconds, more than any test takes, by which a process
// that sleeps so long is known.
func unique() string {
	return fmt.Sprintf("1000.%d%03d", os.Getpid(), sleeps.Add(1))
}
