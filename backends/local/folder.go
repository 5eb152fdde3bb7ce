package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"claude-runner/backends"
)

// folder is a sandbox's state folder. Whoever starts, keeps or removes the
// sandbox holds a lock on the folder itself: the starting runner first, then
// the keeper, which inherits the lock and has it until it ends, however it
// ends. So a folder that is not locked has no keeper.
//
// A folder without a record is of a start that never came to be.
type folder string

// The files of a folder. All are the runner's user's alone.
const (
	recordFile  = "sandbox.json" // the handle; written by the keeper once the main process runs
	resultFile  = "result.json"  // how it ended; written by the keeper at its end
	stdoutFile  = "stdout"       // all of it
	stderrFile  = "stderr"       // at least the last backends.StderrLimit bytes
	controlFile = "control"      // a named pipe on which the keeper takes commands
	logFile     = "keeper.log"   // what the keeper says where it fails
)

// result is what the keeper writes at its end.
type result struct {
	Exit  backends.Exit  `json:"exit"`
	Usage backends.Usage `json:"usage"`
	// Lost says why some of the output is missing. Empty: none is.
	Lost string `json:"lost,omitempty"`
}

// claim makes the folder, or takes one that a start left half-made, and locks
// it. A folder of a sandbox is ErrExists.
func (f folder) claim() (lock *os.File, err error) {
	for {
		if err := os.Mkdir(string(f), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("%w: make the state folder: %w", backends.ErrUnavailable, err)
		}
		lock, err := f.lock()
		if isGone(err) {
			continue // it was removed under our hands
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, backends.ErrExists
		}
		if err != nil {
			return nil, fmt.Errorf("lock the state folder: %w", err)
		}
		if _, err := os.Stat(f.path(recordFile)); err == nil {
			_ = lock.Close()
			return nil, backends.ErrExists
		}
		if err := f.clear(); err != nil {
			_ = lock.Close()
			return nil, err
		}
		return lock, nil
	}
}

// lock locks the folder without waiting: unix.EWOULDBLOCK where another holds
// it, os.ErrNotExist where there is none.
func (f folder) lock() (*os.File, error) {
	d, err := os.Open(string(f))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = d.Close()
		return nil, err
	}
	// What is locked may have been removed before, and be another folder by now.
	held, err := d.Stat()
	if err == nil {
		var now os.FileInfo
		if now, err = os.Stat(string(f)); err == nil && !os.SameFile(held, now) {
			err = os.ErrNotExist
		}
	}
	if err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// clear empties the folder, whose lock the caller has.
func (f folder) clear() error {
	entries, err := os.ReadDir(string(f))
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(f.path(e.Name())))
	}
	if err != nil {
		return fmt.Errorf("clear the state folder: %w", err)
	}
	return nil
}

// remove removes the folder, whose lock the caller has. The record goes first:
// a removal that is cut short leaves a half-made folder, which claim takes.
func (f folder) remove() error {
	if err := os.Remove(f.path(recordFile)); err != nil && !isGone(err) {
		return fmt.Errorf("remove the sandbox's record: %w", err)
	}
	if err := os.RemoveAll(string(f)); err != nil {
		return fmt.Errorf("remove the state folder: %w", err)
	}
	return nil
}

// handle reads the record: os.ErrNotExist where there is none.
func (f folder) handle() (backends.Handle, error) {
	var h backends.Handle
	err := f.read(recordFile, &h)
	return h, err
}

// result reads how the sandbox ended: os.ErrNotExist where that is not known.
func (f folder) result() (result, error) {
	var r result
	err := f.read(resultFile, &r)
	return r, err
}

func (f folder) path(name string) string { return filepath.Join(string(f), name) }

func (f folder) read(name string, v any) error {
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", f.path(name), err)
	}
	return nil
}

// reserve takes the room that write wants for the file name, while the disk
// still has it.
func (f folder) reserve(name string) error {
	return os.WriteFile(f.path(name+".new"), make([]byte, 4096), 0o600)
}

// write makes the file name whole, or not at all.
func (f folder) write(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	file, err := os.OpenFile(f.path(name+".new"), os.O_CREATE|os.O_WRONLY, 0o600) // in what is reserved, if it is
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Truncate(int64(len(data)))
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(f.path(name+".new"), f.path(name))
}
