package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"claude-runner/backends"
)

// List implements backends.Backend.
func (b *backend) List(ctx context.Context) ([]backends.Handle, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(b.stateDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w: %w", backends.ErrUnavailable, err)
	}
	var out []backends.Handle
	for _, e := range entries {
		h, err := b.folder(e.Name()).handle()
		if isGone(err) {
			continue // half-made, or being removed
		}
		if err != nil {
			return nil, fmt.Errorf("list sandboxes: %w", err)
		}
		if h.Labels[backends.LabelInstance] == b.instance {
			h.Backend = b.name // the configuration may have renamed it
			out = append(out, h)
		}
	}
	return out, nil
}

// Recover implements backends.Backend.
func (b *backend) Recover(ctx context.Context, h backends.Handle, from int64) (backends.Sandbox, error) {
	s, err := b.recover(ctx, h, from)
	if err != nil {
		return nil, fmt.Errorf("recover sandbox %s: %w", h.Name, err)
	}
	return s, nil
}

func (b *backend) recover(ctx context.Context, h backends.Handle, from int64) (*sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if h.Version != dataVersion {
		return nil, fmt.Errorf("its handle has version %d, and this program knows version %d", h.Version, dataVersion)
	}
	if from < 0 {
		return nil, fmt.Errorf("from byte %d of its output: want zero or more", from)
	}
	if h.Name != filepath.Base(h.Name) {
		return nil, backends.ErrNotFound
	}
	f := b.folder(h.Name)
	record, err := f.handle()
	if isGone(err) || err == nil && record.ID != h.ID {
		return nil, backends.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	record.Backend = b.name
	return b.attach(f, record, from, nil)
}

// attach makes a sandbox of a folder that has a record. Its standard input is
// pipe, if that is still open.
func (b *backend) attach(f folder, h backends.Handle, from int64, pipe *os.File) (_ *sandbox, err error) {
	var d data
	if err := json.Unmarshal(h.Data, &d); err != nil {
		return nil, fmt.Errorf("read its handle: %w", err)
	}
	s := &sandbox{
		b: b, folder: f, handle: h, stdin: &stdin{pipe: pipe}, keeper: watchKeeper(f, d), measure: measure(d.Keeper, d.Started),
		ended: make(chan struct{}), cleaning: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			s.keeper.close()
		}
	}()
	s.control, err = os.OpenFile(f.path(controlFile), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil && !isGone(err) && !errors.Is(err, unix.ENXIO) { // ENXIO: no keeper reads it
		return nil, err
	}
	w, err := b.watcher()
	if err == nil {
		s.stdout, err = follow(w, f.path(stdoutFile), from, s.ended, b.done, func(at int64) { s.command(readCommand, at) })
	}
	if err == nil {
		err = b.adopt(s)
	}
	if err != nil {
		if s.control != nil {
			_ = s.control.Close()
		}
		if s.stdout != nil {
			s.stdout.unwatch()
			_ = s.stdout.file.Close()
		}
		return nil, err
	}
	return s, nil
}

// stderr returns the end of the main process's standard error.
func (f folder) stderr() []byte {
	data, err := os.ReadFile(f.path(stderrFile))
	if err != nil {
		return nil
	}
	return data[max(0, len(data)-backends.StderrLimit):]
}
