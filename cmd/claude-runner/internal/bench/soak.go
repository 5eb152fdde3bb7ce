package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	soakSamples = 40              // in a soak; a quarter of them is compared with another
	soakWarmUp  = 5 * time.Minute // at most, and a third: caches fill and heaps find their size
	soakTurns   = 50              // of a conversation, before it is deleted and another begins: its own memory grows
)

// soakReport is what a soak saw.
type soakReport struct {
	DurationMS  float64       `json:"duration_ms"`
	Turns       int           `json:"turns"`
	NewSessions int           `json:"new_sessions"`
	Samples     []soakSample  `json:"samples"`
	Compared    []soakQuarter `json:"compared"`
}

// soakSample is a server at one moment.
type soakSample struct {
	AtMS float64 `json:"at_ms"`

	ServerBytes        float64 `json:"server_memory_bytes"`
	GatewayBytes       float64 `json:"gateway_memory_bytes"`
	AgentsBytes        float64 `json:"agents_memory_bytes"`
	AgentProcesses     float64 `json:"agent_processes"`
	ServerDescriptors  float64 `json:"server_descriptors"`
	GatewayDescriptors float64 `json:"gateway_descriptors"`
	Goroutines         float64 `json:"server_goroutines"`
	Folders            float64 `json:"session_folders"`
	DatabaseBytes      float64 `json:"database_bytes"`
	HotAnswerMS        float64 `json:"hot_answer_p50_ms"` // since the sample before
	Turns              int     `json:"turns"`             // so far
}

// soaker keeps a server busy.
type soaker struct {
	s     *server
	until time.Time

	mu          sync.Mutex
	turns       int
	newSessions int
	window      quantiles // hot answers since the last sample
}

// soak keeps a server of all backends at half load: conversations that pause for
// as long as a turn took, and sessions that come, are reset, and go.
func (l *lab) soak(ctx context.Context) (_ *report, err error) {
	r := l.newReport(ctx)
	if len(r.Backends) == 0 {
		return r, nil
	}
	s, err := l.soakServer(ctx, r.Backends)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	k := &soaker{s: s, until: time.Now().Add(l.o.Soak)}
	l.say("soak for %v on %d backends", l.o.Soak, len(r.Backends))
	report := &soakReport{}
	g, gctx := errgroup.WithContext(ctx)
	for i := range max(l.o.Conversations, len(r.Backends)) {
		g.Go(func() error { return k.converse(gctx, "hot-"+r.Backends[i%len(r.Backends)].Name) })
	}
	for _, b := range r.Backends {
		g.Go(func() error { return k.comeAndGo(gctx, l.comers(b.Name)) })
	}
	g.Go(func() error { return k.watch(gctx, report) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	report.DurationMS, report.Turns, report.NewSessions = ms(l.o.Soak), k.turns, k.newSessions
	report.compare()
	r.Soak = report
	return r, nil
}

// comers are the profiles of the sessions that come and go.
func (l *lab) comers(backend string) []string {
	if l.o.wants("warm") {
		return []string{"cold-" + backend, "warm-" + backend}
	}
	return []string{"cold-" + backend}
}

func (l *lab) soakServer(ctx context.Context, all []*backendResult) (*server, error) {
	entries, agents := map[string]any{}, map[string]agentProfile{}
	for _, b := range all {
		entries[b.Name] = backendEntry(b.Name, l.cliDir())
		agents["hot-"+b.Name] = agentProfile{"idle_timeout": "10m"}
		agents["cold-"+b.Name] = agentProfile{"idle_timeout": "0s"}
		if l.o.wants("warm") {
			agents["warm-"+b.Name] = agentProfile{"idle_timeout": "0s", "keep_warm": 1}
		}
		for _, a := range []string{"hot-", "cold-", "warm-"} {
			if p := agents[a+b.Name]; p != nil {
				p.on(l, b.Name)
			}
		}
	}
	return l.start(ctx, map[string]any{
		"backends": entries, "agents": agents, "default_agent": "hot-" + all[0].Name,
		"limits": map[string]any{"concurrency": l.o.Conversations + 2*len(all)},
	})
}

// converse has conversations, one after the other.
func (k *soaker) converse(ctx context.Context, agentName string) error {
	for time.Now().Before(k.until) {
		session := k.s.session()
		for turn := 0; turn < soakTurns && time.Now().Before(k.until); turn++ {
			took, err := k.turn(ctx, agentName, session, turn > 0)
			if err != nil {
				return err
			}
			if err := pause(ctx, took); err != nil { // half load
				return err
			}
		}
		if err := k.s.delete(ctx, session); err != nil {
			return err
		}
	}
	return nil
}

// comeAndGo has sessions begin, be reset, go on and be deleted.
func (k *soaker) comeAndGo(ctx context.Context, profiles []string) error {
	for n := 0; time.Now().Before(k.until); n++ {
		session, agentName := k.s.session(), profiles[n%len(profiles)]
		first, err := k.turn(ctx, agentName, session, false)
		if err != nil {
			return err
		}
		if err := k.s.call(ctx, http.MethodPost, "/session/"+url.PathEscape(session)+"/reset", nil, nil); err != nil {
			return err
		}
		second, err := k.turn(ctx, agentName, session, false)
		if err != nil {
			return err
		}
		if err := k.s.delete(ctx, session); err != nil {
			return err
		}
		k.mu.Lock()
		k.newSessions++
		k.mu.Unlock()
		if err := pause(ctx, first+second); err != nil {
			return err
		}
	}
	return nil
}

func (k *soaker) turn(ctx context.Context, agentName, session string, hot bool) (time.Duration, error) {
	took, err := k.s.plainTurn(ctx, agentName, session)
	if err != nil {
		return took, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.turns++
	if hot {
		k.window.add(took)
	}
	return took, nil
}

// watch samples the server until the soak's end.
func (k *soaker) watch(ctx context.Context, r *soakReport) error {
	begun := time.Now()
	warmUp := min(soakWarmUp, k.s.lab.o.Soak/3)
	every := (k.s.lab.o.Soak - warmUp) / (soakSamples + 1)
	if err := pause(ctx, warmUp); err != nil {
		return err
	}
	for time.Now().Before(k.until) {
		if err := pause(ctx, every); err != nil {
			return err
		}
		sample, err := k.sample(ctx)
		if err != nil {
			return err
		}
		sample.AtMS = ms(time.Since(begun))
		r.Samples = append(r.Samples, sample)
		k.s.lab.say("soak: %v, %d turns, hot p50 %s ms, server %s, database %s", time.Since(begun).Round(time.Second),
			sample.Turns, number(sample.HotAnswerMS), bytesOf(int64(sample.ServerBytes)), bytesOf(int64(sample.DatabaseBytes)))
	}
	return nil
}

func (k *soaker) sample(ctx context.Context) (soakSample, error) {
	p := k.s.processes()
	sample := soakSample{
		ServerBytes: float64(p.server.memory), GatewayBytes: float64(p.gateway.memory), AgentsBytes: float64(p.agents.memory),
		AgentProcesses: float64(p.count), ServerDescriptors: float64(descriptors(k.s.cmd.Process.Pid)),
		GatewayDescriptors: float64(descriptors(p.gatewayPID)),
	}
	var err error
	if sample.Goroutines, err = k.s.metric(ctx, "go_goroutines"); err != nil {
		return sample, err
	}
	folders, err := os.ReadDir(filepath.Join(k.s.dir, "sessions"))
	if err != nil {
		return sample, err
	}
	size, err := folderSize(k.s.dir) // its files are the database's
	if err != nil {
		return sample, err
	}
	sample.Folders, sample.DatabaseBytes = float64(len(folders)), float64(size)
	k.mu.Lock()
	defer k.mu.Unlock()
	sample.HotAnswerMS, sample.Turns = k.window.at(0.5), k.turns
	k.window = quantiles{}
	return sample, nil
}

// metric reads a figure without labels from GET /metrics.
func (s *server) metric(ctx context.Context, name string) (float64, error) {
	status, body, err := s.client.Do(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(body))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("GET /metrics answered %d without %s", status, name)
}
