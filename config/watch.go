package config

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quiet is how long the file must have stayed as it is before it is read:
// some editors empty it first and write it then.
const quiet = 200 * time.Millisecond

// Watch calls changed with what c.Reload returns, each time the content of c's
// file has become another since c was loaded, until ctx ends; the calls come
// one after the other. With an error the caller keeps what it has. Without a
// file Watch waits for ctx's end. Its own error is that the file's folder can
// not be watched.
//
// Files that are replaced by a rename are followed, and so are links: those of
// Kubernetes' configuration volumes change far from the file itself.
func Watch(ctx context.Context, c *Config, changed func(*Config, error)) error {
	return watch(ctx, c, changed, time.After)
}

func watch(ctx context.Context, c *Config, changed func(*Config, error), after func(time.Duration) <-chan time.Time) error {
	if c.Path == "" {
		<-ctx.Done()
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", c.Path, err)
	}
	defer w.Close()
	if err := w.Add(filepath.Dir(c.Path)); err != nil {
		return fmt.Errorf("watch the folder of %s: %w", c.Path, err)
	}

	loaded, seen := c.checksum, c.checksum
	var due <-chan time.Time // nil while nothing has changed
	look := func() {
		watchTarget(w, c.Path)
		if now := contentOf(c.Path); now != seen {
			seen, due = now, after(quiet)
		}
	}
	look() // the file may have changed since it was loaded
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events: // of any file in the folder
			look()
		case _, lost := <-w.Errors: // events may be among what was lost
			if lost {
				look()
			}
		case <-due:
			due = nil
			if look(); due == nil && seen != loaded {
				loaded = seen
				changed(c.Reload())
			}
		}
	}
}

// watchTarget watches the folder of the file that a link leads to. Where there
// is none now, the link's own folder tells when there is again.
func watchTarget(w *fsnotify.Watcher, link string) {
	if target, err := filepath.EvalSymlinks(link); err == nil {
		_ = w.Add(filepath.Dir(target))
	}
}

// contentOf returns the checksum of a file; of one that can not be read, that
// of the reason.
func contentOf(name string) checksum {
	data, err := readFile(name, maxFileSize)
	if err != nil {
		data = []byte("unreadable: " + reason(err))
	}
	return sha256.Sum256(data)
}
