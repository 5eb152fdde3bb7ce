package local

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/fsnotify/fsnotify"
)

// follower reads a file that another process appends to, and waits at its end
// for more until the writer has ended. It closes the file at the end; where
// nobody reads that far, the garbage collector does.
type follower struct {
	file    *os.File
	watcher *watcher
	at      atomic.Int64
	grown   chan struct{}   // has a value when the file may have grown
	ended   <-chan struct{} // closed when the file does not grow any more
	done    <-chan struct{} // closed when nobody tells of growth any more
	// passed is called with the position after each step bytes that were read.
	passed func(at int64)
	told   int64

	drained chan struct{} // closed when the end of the file has been read
}

// step is how many bytes are read between two calls of follower.passed.
const step = 1 << 20

// follow opens the file at path for reading from a position on.
func follow(w *watcher, path string, from int64, ended, done <-chan struct{}, passed func(int64)) (*follower, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	f := &follower{
		file: file, watcher: w, grown: make(chan struct{}, 1), ended: ended, done: done,
		passed: passed, told: from, drained: make(chan struct{}),
	}
	f.at.Store(from)
	if err := w.add(path, f.grown); err != nil {
		_ = file.Close()
		return nil, err
	}
	passed(from)
	return f, nil
}

// unwatch says that the file is not going to grow any more.
func (f *follower) unwatch() { f.watcher.remove(f.file.Name(), f.grown) }

// Read reads what is there, and waits only where nothing is.
func (f *follower) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if isClosed(f.drained) {
		return 0, io.EOF
	}
	for {
		over := isClosed(f.ended) // before the read: what the writer wrote is there
		n, err := f.file.ReadAt(p, f.at.Load())
		if n > 0 {
			f.advance(int64(n))
			return n, nil
		}
		if isClosed(f.done) {
			return 0, errClosed
		}
		if !errors.Is(err, io.EOF) {
			return 0, err
		}
		if over {
			close(f.drained)
			_ = f.file.Close()
			return 0, io.EOF
		}
		select {
		case <-f.grown:
		case <-f.ended:
		case <-f.done:
			return 0, errClosed
		}
	}
}

// atEnd says whether all that is there has been read.
func (f *follower) atEnd() bool {
	if isClosed(f.drained) {
		return true
	}
	info, err := f.file.Stat()
	return err == nil && f.at.Load() >= info.Size()
}

func (f *follower) advance(n int64) {
	at := f.at.Add(n)
	if at-f.told >= step {
		f.told = at
		f.passed(at)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// watcher tells followers that their files have grown.
type watcher struct {
	notify *fsnotify.Watcher
	ended  chan struct{}

	mu    sync.Mutex
	files map[string]map[chan<- struct{}]struct{}
}

func newWatcher() (*watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &watcher{notify: n, ended: make(chan struct{}), files: map[string]map[chan<- struct{}]struct{}{}}
	go w.run()
	return w, nil
}

// add lets grown, which has room for one value, have one after each write to
// the file at path.
func (w *watcher) add(path string, grown chan<- struct{}) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.files[path] == nil {
		if err := w.notify.Add(path); err != nil {
			return err
		}
		w.files[path] = map[chan<- struct{}]struct{}{}
	}
	w.files[path][grown] = struct{}{}
	return nil
}

// remove undoes add.
func (w *watcher) remove(path string, grown chan<- struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.files[path], grown)
	if len(w.files[path]) == 0 {
		delete(w.files, path)
		_ = w.notify.Remove(path) // the file may be gone, and the watch with it
	}
}

func (w *watcher) close() error {
	err := w.notify.Close()
	<-w.ended
	return err
}

func (w *watcher) run() {
	defer close(w.ended)
	for {
		select {
		case e, ok := <-w.notify.Events:
			if !ok {
				return
			}
			w.mu.Lock()
			tell(w.files[e.Name])
			w.mu.Unlock()
		case _, ok := <-w.notify.Errors:
			if !ok {
				return
			}
			w.mu.Lock() // events may have been lost
			for _, followers := range w.files {
				tell(followers)
			}
			w.mu.Unlock()
		}
	}
}

func tell(followers map[chan<- struct{}]struct{}) {
	for grown := range followers {
		select {
		case grown <- struct{}{}:
		default: // it knows already
		}
	}
}
