package scripted

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// Request is a messages request that the server got.
type Request struct {
	At           time.Time
	Header       http.Header // credentials masked
	Credentials  []string    // of "x-api-key" and "authorization" those that were there
	Conversation string      // the CLI's session, where it is the client
	Model        string
	Stream       bool
	Tools        []string // names of the tools offered
	View         View     // the texts
	Rule         string   // name of the rule that answers; empty: none fits
	Size         int      // of the body, in bytes
}

// Totals are what a server has served. A client that has read an answer finds it
// counted.
type Totals struct {
	Calls     int // messages sent whole; the tokens are theirs
	Errors    int // answers with an HTTP error status
	Broken    int // answers broken off, by the script or the client
	Unmatched int // requests that no rule fits

	InputTokens         int64
	OutputTokens        int64
	CacheReadTokens     int64
	CacheCreationTokens int64
	USD                 float64 // by the prices of the script and the options

	// What broken answers had announced when they broke off: a stream's
	// message_start, with one token of output; else nothing.
	CutInputTokens         int64
	CutOutputTokens        int64
	CutCacheReadTokens     int64
	CutCacheCreationTokens int64
	CutUSD                 float64
}

// Requests returns the messages requests so far, oldest first, as many as
// Options.KeepRequests says.
func (s *Server) Requests() []Request { return s.record.all() }

// Served returns the totals so far.
func (s *Server) Served() Totals {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return s.record.totals
}

// Problems returns what a test should fail for: requests that no rule fits, and
// templates that could not be filled in. At most 100 are kept.
func (s *Server) Problems() []string {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return append([]string(nil), s.record.problems...)
}

const maxProblems = 100

type recorder struct {
	mu       sync.Mutex
	keep     int
	ring     []Request
	next     int // where in the full ring the oldest is
	totals   Totals
	problems []string
}

func newRequest(r *http.Request, in *incoming, view View, size int, chosen *rule) Request {
	request := Request{
		At: time.Now(), Header: r.Header.Clone(), Conversation: strings.Clone(in.conversation()),
		Model: in.Model, Stream: in.Stream, View: view, Size: size,
	}
	for _, name := range []string{"X-Api-Key", "Authorization"} {
		if request.Header.Get(name) != "" {
			request.Header.Set(name, "[credential]")
			request.Credentials = append(request.Credentials, strings.ToLower(name))
		}
	}
	for _, tool := range in.Tools {
		request.Tools = append(request.Tools, tool.Name)
	}
	if chosen != nil {
		request.Rule = chosen.Name
	}
	return request
}

func (c *recorder) add(r Request, hook func(Request)) {
	c.mu.Lock()
	switch {
	case c.keep < 0:
	case len(c.ring) < c.keep:
		c.ring = append(c.ring, r)
	default:
		c.ring[c.next] = r
		c.next = (c.next + 1) % c.keep
	}
	c.mu.Unlock()
	if hook != nil {
		hook(r)
	}
}

func (c *recorder) all() []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(append([]Request(nil), c.ring[c.next:]...), c.ring[:c.next]...)
}

func (c *recorder) served(u usage, p Price) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &c.totals
	t.Calls++
	t.InputTokens += u.Input
	t.OutputTokens += u.Output
	t.CacheReadTokens += u.CacheRead
	t.CacheCreationTokens += u.CacheCreation
	t.USD += p.cost(u)
}

func (p Price) cost(u usage) float64 {
	return (float64(u.Input)*p.Input + float64(u.Output)*p.Output +
		float64(u.CacheRead)*p.CacheRead + float64(u.CacheCreation)*p.CacheWrite) / 1e6
}

func (c *recorder) failed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.totals.Errors++
}

// broken counts a broken answer, and what it had announced.
func (c *recorder) broken(u usage, p Price) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &c.totals
	t.Broken++
	t.CutInputTokens += u.Input
	t.CutOutputTokens += u.Output
	t.CutCacheReadTokens += u.CacheRead
	t.CutCacheCreationTokens += u.CacheCreation
	t.CutUSD += p.cost(u)
}

func (c *recorder) unmatched(what string) {
	c.mu.Lock()
	c.totals.Unmatched++
	c.mu.Unlock()
	c.problem(what)
}

func (c *recorder) problem(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, what)
	}
}

// carries reports whether the headers have the credential, in either way.
func carries(h http.Header, key string) bool {
	return h.Get("X-Api-Key") == key || h.Get("Authorization") == "Bearer "+key
}

// counter is what a rule's times are counted by.
type counter struct {
	rule         int
	conversation string // empty: all of the server's
}

// counters count the answers of rules that have times.
type counters struct {
	mu sync.Mutex
	by map[counter]int
}

// take reports whether the rule may answer once more, and counts it.
func (c *counters) take(r *rule, index int, in *incoming) bool {
	if r.Times == 0 {
		return true
	}
	key := counter{rule: index}
	if r.Per == perConversation {
		key.conversation = in.conversation()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by[key] >= r.Times {
		return false
	}
	c.by[key]++
	return true
}
