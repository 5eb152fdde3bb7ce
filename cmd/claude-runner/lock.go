package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// makeFolder makes the data folder where it is missing.
func makeFolder(dir string) error {
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711 // sandboxes run as another user and pass through to their session
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("make data folder: %w; set data_dir to a folder that this user may write", err)
	}
	return nil
}

// lockFolder makes dir where it is missing and holds it for this process: one
// data folder has one runner. Closing gives it back.
func lockFolder(dir string) (io.Closer, error) {
	if err := makeFolder(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "runner.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w; set data_dir to a folder that this user may write", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path) // only makes the message better
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
		}
		return nil, fmt.Errorf("data folder %s is in use by another claude-runner (process %s); stop that one, or give this one its own data_dir", dir, strings.TrimSpace(string(holder)))
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock data folder %s: %w", dir, err), f.Close())
		}
	}
	return f, nil
}
