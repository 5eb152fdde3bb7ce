package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"claude-runner/backends"
)

// launch starts a keeper in the claimed folder, hands it the order and returns
// the sandbox. Where it fails, no process is left.
func (b *backend) launch(ctx context.Context, f folder, lock *os.File, o order) (*sandbox, error) {
	for _, name := range []string{stdoutFile, stderrFile, logFile} {
		if err := os.WriteFile(f.path(name), nil, 0o600); err != nil {
			return nil, err
		}
	}
	if err := unix.Mkfifo(f.path(controlFile), 0o600); err != nil {
		return nil, fmt.Errorf("make the control pipe: %w", err)
	}
	// Open for reading too, so that commands wait for a keeper that is not there yet.
	control, err := os.OpenFile(f.path(controlFile), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	k, err := startKeeper(f, control, lock)
	if err != nil {
		return nil, err
	}
	h, err := k.hand(ctx, o)
	if err == nil {
		var s *sandbox
		if s, err = b.attach(f, h, 0, k.stdin); err == nil {
			_ = k.cmd.Process.Release() // it is awaited by other means, which other runners have too
			return s, nil
		}
	}
	k.abort()
	return nil, err
}

// newborn is a keeper that has just been started, and the runner's ends of its
// pipes.
type newborn struct {
	cmd           *exec.Cmd
	folder        folder
	control       *os.File
	order, answer *os.File
	stdin         *os.File // the sandbox's
}

// startKeeper starts a keeper, with nothing of the runner's environment.
func startKeeper(f folder, control, lock *os.File) (*newborn, error) {
	program, err := ownProgram()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	log, err := os.OpenFile(f.path(logFile), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	k := &newborn{folder: f, control: control}
	var orders, answers, stdin *os.File
	for _, p := range []struct{ read, write **os.File }{{&orders, &k.order}, {&k.answer, &answers}, {&stdin, &k.stdin}} {
		if *p.read, *p.write, err = os.Pipe(); err != nil {
			break
		}
	}
	defer closeAll(orders, answers, stdin)
	if err == nil {
		k.cmd = &exec.Cmd{
			Path: program, Args: []string{keeperName, string(f)}, Env: []string{}, Dir: "/", Stderr: log,
			ExtraFiles:  []*os.File{orders, answers, stdin, control, lock}, // orderFD and on
			SysProcAttr: &syscall.SysProcAttr{Setsid: true},
		}
		err = k.cmd.Start()
	}
	if err != nil {
		closeAll(k.order, k.answer, k.stdin)
		return nil, fmt.Errorf("start the sandbox's keeper: %w", err)
	}
	return k, nil
}

// hand gives the order to the keeper and returns what came of it.
func (k *newborn) hand(ctx context.Context, o order) (backends.Handle, error) {
	defer closeAll(k.order, k.answer)
	var a answer
	done := make(chan error, 1)
	go func() {
		err := json.NewEncoder(k.order).Encode(o)
		if err == nil {
			err = json.NewDecoder(k.answer).Decode(&a)
		}
		done <- err
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		k.stop()
		return backends.Handle{}, errors.Join(ctx.Err(), <-done)
	}
	switch {
	case err != nil:
		_ = k.cmd.Process.Kill()
		return backends.Handle{}, fmt.Errorf("the sandbox's keeper does not answer: %w%s", err, k.folder.complaint())
	case a.Invalid && a.Denied && o.User != nil:
		return backends.Handle{}, invalid("%s%s", a.Error, closedTo(*o.User, o.Dir, o.Program))
	case a.Invalid:
		return backends.Handle{}, invalid("%s", a.Error)
	case a.Error != "":
		return backends.Handle{}, errors.New(a.Error)
	}
	return a.Handle, nil
}

// stop has the keeper end what it has started, or is about to start.
func (k *newborn) stop() { _, _ = fmt.Fprintf(k.control, stopCommand, 0) }

// abort waits until the keeper has ended, with all that it started.
func (k *newborn) abort() {
	k.stop()
	_ = k.stdin.Close()
	_ = k.cmd.Wait() // its status says nothing new
}

// complaint is what a keeper wrote down at its end, as the rest of a sentence.
func (f folder) complaint() string {
	text, err := os.ReadFile(f.path(logFile))
	if err != nil || len(text) == 0 {
		return ""
	}
	return ": " + strings.TrimSpace(string(text[max(0, len(text)-4096):]))
}

// closedTo says which folder on the way to one of the paths u may not enter,
// and what to do about it. It looks at modes alone, and may find nothing.
func closedTo(u backends.User, paths ...string) string {
	for _, path := range paths {
		var way []string
		for p := path; p != filepath.Dir(p); p = filepath.Dir(p) {
			way = append([]string{p}, way...)
		}
		for _, p := range way {
			info, err := os.Stat(p)
			if err != nil {
				break
			}
			owner, ok := info.Sys().(*syscall.Stat_t)
			if !ok {
				break
			}
			mayEnter := info.Mode()&0o001 != 0
			if int(owner.Gid) == u.GID {
				mayEnter = info.Mode()&0o010 != 0
			}
			if int(owner.Uid) == u.UID {
				mayEnter = info.Mode()&0o100 != 0
			}
			if !mayEnter {
				return fmt.Sprintf(": the sandbox's user %d:%d may not enter %s: chmod o+x it, or use a place elsewhere", u.UID, u.GID, p)
			}
		}
	}
	return ""
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		_ = f.Close() // of a nil file, too
	}
}
