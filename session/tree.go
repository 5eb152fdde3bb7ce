package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/google/uuid"
)

// What is in a session's folders is the sandbox's, which may have made it to do
// harm: links that lead outside, pipes that never answer, trees too deep for
// any path, folders that cannot be read, and all of it may change at any
// moment. So these functions take one step at a time from a folder that is
// open (os.Root), follow no link, open nothing but folders, and hold a bounded
// number of files open.

// maxDepth is how deep a tree may be that is walked: each level has two files
// open. No program has need of more.
const maxDepth = 200

// errTooDeep is said of a tree with more than maxDepth levels.
var errTooDeep = fmt.Errorf("folders are more than %d levels deep in it", maxDepth)

// batch is how many names of a folder are read at once.
const batch = 512

// walk calls visit for all that is below top, a folder before what is in it.
// What goes away meanwhile is left out. It may make folders readable.
func walk(ctx context.Context, top *os.Root, visit func(dir *os.Root, name string, info fs.FileInfo) error) error {
	return walkFrom(ctx, top, 0, visit)
}

func walkFrom(ctx context.Context, dir *os.Root, depth int, visit func(*os.Root, string, fs.FileInfo) error) error {
	return names(ctx, dir, func(name string) error {
		info, err := dir.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = visit(dir, name, info)
		}
		if err != nil || !info.IsDir() {
			return err
		}
		if depth == maxDepth {
			return errTooDeep
		}
		sub, err := openFolder(dir, name)
		if err != nil {
			if now, lookErr := dir.Lstat(name); lookErr != nil || !now.IsDir() {
				return nil // it is no folder any more
			}
			return err
		}
		defer sub.Close()
		if now, err := sub.Stat("."); err != nil || !os.SameFile(info, now) {
			return err // another is in its place, perhaps by a link
		}
		return walkFrom(ctx, sub, depth+1, visit)
	})
}

// names calls do for each name in dir.
func names(ctx context.Context, dir *os.Root, do func(name string) error) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		list, err := f.Readdirnames(batch)
		for _, name := range list {
			if err := do(name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || err == nil && len(list) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// openFolder opens the folder name in dir, where its owner may have taken the
// right to do so from itself.
func openFolder(dir *os.Root, name string) (*os.Root, error) {
	sub, err := dir.OpenRoot(name)
	if err == nil {
		if err = readable(sub); err == nil {
			return sub, nil
		}
		_ = sub.Close()
	}
	if !errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	if err := dir.Chmod(name, 0o700); err != nil {
		return nil, err
	}
	return dir.OpenRoot(name)
}

func readable(dir *os.Root) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	_ = f.Close()
	_, err = dir.Stat(".") // which needs the right to enter it
	return err
}

// removeTree removes the folder name, with all that is in it, or stops when ctx
// ends. Deep folders are brought up to it first, so that none is deep.
func removeTree(ctx context.Context, parent *os.Root, name string) error {
	if info, err := parent.Lstat(name); err == nil && !info.IsDir() {
		return parent.Remove(name)
	}
	top, err := openFolder(parent, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer top.Close()
	for {
		r := remover{top: top}
		if err := names(ctx, top, func(name string) error { return r.remove(ctx, name) }); err != nil {
			return err
		}
		err := parent.Remove(name)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if r.done == 0 {
			return errors.Join(err, r.err)
		}
	}
}

// remover is one pass over a folder that is being emptied.
type remover struct {
	top  *os.Root
	done int   // what was removed, or brought up
	err  error // why one thing was not
}

// remove removes what is called name in the top folder. It fails only where
// ctx ends.
func (r *remover) remove(ctx context.Context, name string) error {
	err := r.top.Remove(name)
	if info, lookErr := r.top.Lstat(name); err != nil && lookErr == nil && info.IsDir() {
		err = r.clear(ctx, name)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			err = r.top.Remove(name)
		}
	}
	r.note(err)
	return nil
}

func (r *remover) note(err error) {
	switch {
	case err == nil:
		r.done++
	case !errors.Is(err, fs.ErrNotExist):
		r.err = err
	}
}

// clear empties a folder of the top one: what in it is not empty itself comes
// up to the top.
func (r *remover) clear(ctx context.Context, name string) error {
	dir, err := openFolder(r.top, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return names(ctx, dir, func(entry string) error {
		err := dir.Remove(entry)
		if errors.Is(err, fs.ErrPermission) { // the right to write, or that to rename a folder
			_ = dir.Chmod(".", 0o700)
			err = dir.Remove(entry)
		}
		if info, lookErr := dir.Lstat(entry); err != nil && lookErr == nil && info.IsDir() {
			err = r.top.Rename(name+"/"+entry, bringUp())
			if errors.Is(err, fs.ErrPermission) {
				_ = dir.Chmod(entry, 0o700)
				err = r.top.Rename(name+"/"+entry, bringUp())
			}
		}
		r.note(err)
		return nil
	})
}

func bringUp() string { return ".up-" + uuid.NewString() }

// entryCost is what each file, folder and link counts for beside its blocks, in
// bytes: a file system has room for so many, be they empty.
const entryCost = 1 << 10

// diskUse returns how much of the disk a tree takes, in bytes, or a little more
// than limit where it takes more than that. Files that are in it twice count
// once; files with holes, as what they have.
func diskUse(ctx context.Context, top *os.Root, limit int64) (int64, error) {
	type file struct{ dev, ino uint64 }
	used, linked := int64(0), map[file]bool{}
	err := walk(ctx, top, func(_ *os.Root, _ string, info fs.FileInfo) error {
		used += entryCost
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			id := file{uint64(st.Dev), st.Ino} //nolint:unconvert // of other systems it is an int32
			if st.Nlink == 1 || info.IsDir() || !linked[id] {
				used += st.Blocks * 512
			}
			if st.Nlink > 1 && !info.IsDir() {
				linked[id] = true
			}
		}
		if used > limit {
			return errOverLimit
		}
		return nil
	})
	if errors.Is(err, errOverLimit) {
		return used, nil
	}
	return used, err
}

var errOverLimit = errors.New("over the limit")
