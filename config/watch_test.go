package config_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"claude-runner/config"
)

// patience bounds every wait for something that happens soon.
const patience = 20 * time.Second

// clock is the watcher's clock: the test says when the file has been quiet.
type clock struct {
	t    *testing.T
	asks chan chan time.Time // a timer that the watcher has set
}

func (c clock) after(time.Duration) <-chan time.Time {
	timer := make(chan time.Time, 1)
	c.asks <- timer
	return timer
}

// waitAsked waits until the watcher has set a timer, and returns it.
func (c clock) waitAsked() chan time.Time {
	c.t.Helper()
	select {
	case timer := <-c.asks:
		return timer
	case <-time.After(patience):
		c.t.Fatal("the watcher has not seen the change")
		return nil
	}
}

// passed lets the quiet time pass until calls has something. The watcher may
// see one change in several steps, each with a timer of its own.
func (c clock) passed(calls <-chan result) result {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case timer := <-c.asks:
			timer <- time.Now()
		case r := <-calls:
			return r
		case <-deadline:
			c.t.Fatal("no configuration came")
		}
	}
}

type result struct {
	cfg *config.Config
	err error
}

// watched starts watching a configuration until the test's end.
func watched(t *testing.T, cfg *config.Config) (clock, <-chan result) {
	t.Helper()
	c := clock{t: t, asks: make(chan chan time.Time, 1000)}
	calls := make(chan result, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- config.WatchWith(ctx, cfg, func(cfg *config.Config, err error) { calls <- result{cfg, err} }, c.after)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c, calls
}

// turns waits for a configuration with so many max_turns.
func turns(t *testing.T, r result, want int) {
	t.Helper()
	if r.err != nil {
		t.Fatal(r.err)
	}
	if got := r.cfg.Agents["a"].MaxTurns; got != want {
		t.Fatalf("max_turns is %d, want %d", got, want)
	}
}

func text(turns string) string { return "agents: {a: {max_turns: " + turns + "}}\n" }

func TestWatchSeesWrites(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "config.yaml", text("1"))
	c, calls := watched(t, load(t, options(t, dir, nil)))

	write(t, dir, "config.yaml", text("2"))
	turns(t, c.passed(calls), 2)

	write(t, dir, "config.yaml", text("bad"))
	if r := c.passed(calls); r.err == nil || r.cfg != nil {
		t.Fatalf("a bad file gives %v, %v, want an error alone", r.cfg, r.err)
	}
	write(t, dir, "config.yaml", text("3"))
	turns(t, c.passed(calls), 3)

	if err := os.Remove(filepath.Join(dir, "config.yaml")); err != nil {
		t.Fatal(err)
	}
	if r := c.passed(calls); r.err == nil {
		t.Fatal("a file that is gone is no error")
	}
	write(t, dir, "config.yaml", text("4"))
	turns(t, c.passed(calls), 4)
}

// An editor writes a new file and renames it over the old one.
func TestWatchSeesRename(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "config.yaml", text("1"))
	c, calls := watched(t, load(t, options(t, dir, nil)))
	for _, n := range []struct {
		text string
		want int
	}{{"2", 2}, {"3", 3}} {
		if err := os.Rename(write(t, dir, "config.yaml.new", text(n.text)), filepath.Join(dir, "config.yaml")); err != nil {
			t.Fatal(err)
		}
		turns(t, c.passed(calls), n.want)
	}
}

// A Kubernetes volume holds config.yaml -> ..data/config.yaml, where ..data is
// a link to a folder, replaced as a whole.
func TestWatchSeesLinkSwapped(t *testing.T) {
	dir := t.TempDir()
	link := func(target, name string) {
		t.Helper()
		tmp := filepath.Join(dir, name+".tmp")
		if err := os.Symlink(target, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "..1/config.yaml", text("1"))
	link("..1", "..data")
	link(filepath.Join("..data", "config.yaml"), "config.yaml")
	c, calls := watched(t, load(t, options(t, dir, nil)))
	for _, n := range []struct {
		text string
		want int
	}{{"2", 2}, {"3", 3}} {
		write(t, dir, filepath.Join(".."+n.text, "config.yaml"), text(n.text))
		link(".."+n.text, "..data")
		turns(t, c.passed(calls), n.want)
	}
}

// The file that a link leads to is written elsewhere.
func TestWatchSeesWritesBehindLink(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	if err := os.Symlink(write(t, elsewhere, "real.yaml", text("1")), filepath.Join(dir, "config.yaml")); err != nil {
		t.Fatal(err)
	}
	c, calls := watched(t, load(t, options(t, dir, nil)))
	write(t, elsewhere, "real.yaml", text("2"))
	turns(t, c.passed(calls), 2)
}

// Changes before Watch was called count.
func TestWatchSeesEarlierChange(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "config.yaml", text("1"))
	cfg := load(t, options(t, dir, nil))
	write(t, dir, "config.yaml", text("2"))
	c, calls := watched(t, cfg)
	turns(t, c.passed(calls), 2)
}

// Until the file has been quiet nothing is read, and what is back as it was is
// no change.
func TestWatchWaitsForQuiet(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "config.yaml", text("1"))
	c, calls := watched(t, load(t, options(t, dir, nil)))

	write(t, dir, "config.yaml", "")
	first := c.waitAsked()
	write(t, dir, "config.yaml", text("2"))
	second := c.waitAsked()
	first <- time.Now() // given up by the watcher
	select {
	case r := <-calls:
		t.Fatalf("a file that was not quiet was read: %v", r)
	default:
	}
	second <- time.Now()
	turns(t, c.passed(calls), 2)
	if len(calls) > 0 {
		t.Error("one change is told twice")
	}

	write(t, dir, "config.yaml", "")
	c.waitAsked()
	write(t, dir, "config.yaml", text("2"))
	c.waitAsked() <- time.Now()
	write(t, dir, "config.yaml", text("3"))
	turns(t, c.passed(calls), 3)
	if len(calls) > 0 {
		t.Error("what is back as it was is told")
	}
}

// Other files of the folder do not matter.
func TestWatchIgnoresOthers(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "config.yaml", text("1"))
	c, calls := watched(t, load(t, options(t, dir, nil)))
	for range 20 {
		write(t, dir, "log", "another line")
	}
	write(t, dir, "config.yaml", text("2"))
	turns(t, c.passed(calls), 2)
	if len(calls) > 0 {
		t.Error("one change is told twice")
	}
}

func TestWatchWithoutFile(t *testing.T) {
	_, calls := watched(t, load(t, options(t, t.TempDir(), nil)))
	if len(calls) > 0 {
		t.Error("there is no file to change")
	}
}

// With the real clock, Watch calls once the file has been quiet.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "config.yaml", text("1"))
	cfg := load(t, options(t, dir, nil))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	calls := make(chan result, 1)
	done := make(chan error, 1)
	go func() {
		done <- config.Watch(ctx, cfg, func(cfg *config.Config, err error) { calls <- result{cfg, err} })
	}()
	write(t, dir, "config.yaml", text("2"))
	select {
	case r := <-calls:
		turns(t, r, 2)
	case <-ctx.Done():
		t.Fatal("no configuration came")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
