package gateway

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ensure makes sure that a daemon answers which knows this client's leases.
// Several clients may try at once: all but one of the daemons end at once.
func (c *Client) ensure(ctx context.Context) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("it does not answer"))
	defer cancel()
	for {
		instance, err := c.once(ctx, pathPing, []byte("{}"), nil)
		if err == nil {
			c.reopen(ctx, instance)
			return nil
		}
		if c.collect() == 0 {
			if err := c.launch(); err != nil {
				return fmt.Errorf("start the gateway: %w", err)
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("start the gateway in %s: %w%s", c.dir, context.Cause(ctx), c.complaint())
		}
	}
}

// isNew reports whether a daemon has answered that this client has not met, and
// makes sure that it knows the client's leases: another client may have started it.
func (c *Client) isNew(ctx context.Context, instance string) bool {
	if instance == c.knownInstance() {
		return false
	}
	c.starting.Lock()
	defer c.starting.Unlock()
	c.reopen(ctx, instance)
	return true
}

func (c *Client) knownInstance() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.instance
}

// reopen opens this client's leases at a daemon that is new to it.
func (c *Client) reopen(ctx context.Context, instance string) {
	c.mu.Lock()
	var lost []Lease
	if c.instance != instance {
		for _, l := range c.leases {
			lost = append(lost, l)
		}
	}
	c.mu.Unlock()
	for _, l := range lost {
		if err := c.openAgain(ctx, l); err != nil {
			c.log.Error("a sandbox has no gateway", "lease", l.ID, "error", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.instance = instance
}

// openAgain opens the lease at the daemon that answers, unless it was closed.
func (c *Client) openAgain(ctx context.Context, l Lease) error {
	defer c.openings.begin(l.ID)()
	c.mu.Lock()
	_, has := c.leases[l.ID]
	c.mu.Unlock()
	if !has {
		return nil
	}
	_, err := c.onceAbout(ctx, pathOpen, newWireLease(l), nil)
	return err
}

// launch starts a daemon, with nothing of this process's environment but where
// the system's certificates are.
func (c *Client) launch() error {
	program, err := ownProgram()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(c.dir, logName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := &exec.Cmd{
		Path: program, Args: []string{ProcessName, c.dir}, Env: []string{}, Dir: "/", Stderr: log,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if value := os.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.children = append(c.children, cmd.Process)
	return nil
}

// collect takes leave of the daemons of this client that have ended, and
// returns how many have not.
func (c *Client) collect() int {
	var alive []*os.Process
	for _, p := range c.children {
		var status syscall.WaitStatus
		if pid, err := syscall.Wait4(p.Pid, &status, syscall.WNOHANG, nil); err == nil && pid == 0 {
			alive = append(alive, p)
			continue
		}
		_ = p.Release()
	}
	c.children = alive
	return len(alive)
}

// await waits a little for the daemon, which is about to end: it holds its lock
// until then.
func (c *Client) await(ctx context.Context) {
	c.starting.Lock()
	defer c.starting.Unlock()
	for range 500 {
		if c.collect() == 0 && c.isUnlocked() || ctx.Err() != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *Client) isUnlocked() bool {
	lock, err := os.Open(filepath.Join(c.dir, lockName))
	if err != nil {
		return true
	}
	defer lock.Close()
	return !errors.Is(unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// complaint is the end of the daemon's log, as the rest of a sentence.
func (c *Client) complaint() string {
	text, err := os.ReadFile(filepath.Join(c.dir, logName))
	if err != nil || len(text) == 0 {
		return ""
	}
	return ": " + strings.TrimSpace(string(text[max(0, len(text)-2048):]))
}
