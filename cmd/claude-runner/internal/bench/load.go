package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/valyala/fasthttp"
	"golang.org/x/sync/errgroup"

	"claude-runner/agent/gateway"
	"claude-runner/cmd/claude-runner/internal/client"
)

// loadResult is conversations that go on side by side, each a turn after the
// other, with agents that are kept.
type loadResult struct {
	Conversations  int        `json:"conversations"`
	DurationMS     float64    `json:"duration_ms"`
	Turns          int        `json:"turns"`
	TurnsPerSecond float64    `json:"turns_per_second"`
	Answer         *quantiles `json:"answer_ms"`
	use
}

// use is what a server's processes held and took. Zero where this system
// does not tell.
type use struct {
	ServerBytes  int64   `json:"server_memory_bytes"`
	GatewayBytes int64   `json:"gateway_memory_bytes"`
	AgentsBytes  int64   `json:"agents_memory_bytes"`
	ServerMS     float64 `json:"server_cpu_ms"`
	GatewayMS    float64 `json:"gateway_cpu_ms"`
	AgentsMS     float64 `json:"agents_cpu_ms"`
	LoadMS       float64 `json:"load_generator_cpu_ms"` // with the model
}

// load measures conversations with the real CLI.
func (l *lab) load(ctx context.Context, b *backendResult) (err error) {
	l.say("%s: %s for %v", b.Name, english.Plural(l.o.Conversations, "hot conversation", ""), l.o.Duration)
	s, err := l.serve(ctx, b.Name, l.cliDir(), map[string]agentProfile{"hot": {"idle_timeout": "10m"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	b.Load, err = s.converse(ctx, "hot", l.o.Conversations)
	return err
}

// converse has n conversations go on for the options' duration.
func (s *server) converse(ctx context.Context, agentName string, n int) (*loadResult, error) {
	sessions, err := s.beginAll(ctx, agentName, n)
	if err != nil {
		return nil, err
	}
	return s.talk(ctx, agentName, sessions)
}

// talk has conversations that have begun go on for the options' duration.
func (s *server) talk(ctx context.Context, agentName string, sessions []string) (*loadResult, error) {
	before := s.processes()
	own := ownCPU()
	load := &loadResult{Conversations: len(sessions), Answer: &quantiles{}}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	begun := time.Now()
	for _, session := range sessions {
		g.Go(func() error {
			mine := &quantiles{}
			for time.Since(begun) < s.lab.o.Duration {
				took, err := s.plainTurn(ctx, agentName, session)
				if err != nil {
					return err
				}
				mine.add(took)
			}
			mu.Lock()
			defer mu.Unlock()
			load.Answer.samples = append(load.Answer.samples, mine.samples...)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	took := time.Since(begun)
	load.DurationMS, load.Turns = ms(took), len(load.Answer.samples)
	load.TurnsPerSecond = float64(load.Turns) / took.Seconds()
	load.use = s.processes().since(before)
	load.LoadMS = ms(ownCPU() - own)
	return load, nil
}

// add makes r what it and another, later load were together.
func (r *loadResult) add(later *loadResult) {
	r.DurationMS += later.DurationMS
	r.Turns += later.Turns
	r.TurnsPerSecond = float64(r.Turns) / r.DurationMS * 1000
	r.Answer.samples = append(r.Answer.samples, later.Answer.samples...)
	sum := later.use // memory is that of the end
	sum.ServerMS += r.ServerMS
	sum.GatewayMS += r.GatewayMS
	sum.AgentsMS += r.AgentsMS
	sum.LoadMS += r.LoadMS
	r.use = sum
}

// beginAll begins n conversations, so that their agents are hot.
func (s *server) beginAll(ctx context.Context, agentName string, n int) ([]string, error) {
	sessions := make([]string, n)
	g, ctx := errgroup.WithContext(ctx)
	for i := range sessions {
		sessions[i] = s.session()
		g.Go(func() error {
			_, err := s.plainTurn(ctx, agentName, sessions[i])
			return err
		})
	}
	return sessions, g.Wait()
}

// plainTurn runs a task without a stream, and returns how long its answer took.
func (s *server) plainTurn(ctx context.Context, agentName, session string) (time.Duration, error) {
	mark := s.lab.mark()
	body, err := json.Marshal(client.Task{SessionID: session, Agent: agentName, Message: mark})
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	err = s.post(ctx, "/task", body)
	took := time.Since(begun)
	if err != nil {
		return 0, fmt.Errorf("session %s: %w", session, err)
	}
	_, _ = s.lab.model.take(mark) // an agent that does nothing asks nothing
	return took, nil
}

// postTimeout bounds a request of post's.
const postTimeout = 2 * time.Minute

// post makes a request as call does, for a third of the processor time, which
// the server lacks: they share this machine. A request that was made is waited
// for, whatever becomes of ctx.
func (s *server) post(ctx context.Context, path string, body []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(http.MethodPost)
	req.Header.SetContentType("application/json")
	req.SetRequestURI(s.client.Base + path)
	req.SetBodyRaw(body)
	if err := s.lab.fast.DoTimeout(req, resp, postTimeout); err != nil {
		return err
	}
	if status := resp.StatusCode(); status != http.StatusOK {
		return &client.Refusal{Status: status, Body: slices.Clone(resp.Body())}
	}
	return nil
}

// serverProcesses are a server's processes at one moment.
type serverProcesses struct {
	server, gateway, agents processUse
	count                   int // of the agents'
	gatewayPID              int
}

// processUse is what processes hold now, and have taken so far.
type processUse struct {
	memory int64 // proportional: what several share counts once
	cpu    time.Duration
}

// processes looks at the server's processes. What this system does not tell is
// zero.
func (s *server) processes() serverProcesses {
	all := serverProcesses{server: useOf(s.cmd.Process.Pid)}
	found, _ := processesIn(s.folder())
	for _, p := range found {
		switch use := useOf(p.pid); {
		case p.pid == s.cmd.Process.Pid || p.pid == os.Getpid():
		case p.name == gateway.ProcessName:
			all.gateway.add(use)
			all.gatewayPID = p.pid
		default:
			all.agents.add(use)
			all.count++
		}
	}
	return all
}

// folder is the server's folder as the mounts of any container name it.
func (s *server) folder() string {
	return filepath.Join(filepath.Base(s.lab.dir), filepath.Base(s.dir)) + "/"
}

// foundProcess is a process of this host.
type foundProcess struct {
	pid  int
	name string // the base name of its first argument
}

func (p foundProcess) String() string { return fmt.Sprintf("%d (%s)", p.pid, p.name) }

func (u *processUse) add(v processUse) {
	u.memory += v.memory
	u.cpu += v.cpu
}

// since is what the processes hold now, and took since an earlier moment.
func (p serverProcesses) since(before serverProcesses) use {
	return use{
		ServerBytes: p.server.memory, GatewayBytes: p.gateway.memory, AgentsBytes: p.agents.memory,
		ServerMS: ms(p.server.cpu - before.server.cpu), GatewayMS: ms(p.gateway.cpu - before.gateway.cpu),
		AgentsMS: ms(p.agents.cpu - before.agents.cpu),
	}
}
