package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// What a template may hold. A folder with more is not a template but, say, the
// root of a disk.
const (
	MaxTemplateFiles = 50_000  // files, folders and links
	MaxTemplateBytes = 1 << 30 // in all files
)

// scan walks a template's folder as CopyTo does, and copies nothing.
func scan(files fs.FS) error {
	return walkTemplate(files, func(string, fs.FileInfo) error { return nil })
}

// walkTemplate calls visit for everything in a template's folder, a folder
// before what is in it, and returns the first thing that will not do. It
// follows no link.
func walkTemplate(files fs.FS, visit func(name string, info fs.FileInfo) error) error {
	var count, size int64
	return fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read the folder: %w", err)
		}
		if name == "." {
			return nil
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed since its folder was read
		}
		if err != nil {
			return fmt.Errorf("read the folder: %w", err)
		}
		switch {
		case info.Mode().IsRegular():
			size += info.Size()
		case info.IsDir():
		case info.Mode()&fs.ModeSymlink != 0:
			if err := checkLink(files, name); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is a %s: a template has only files, folders and links", name, kind(info.Mode()))
		}
		if count++; count > MaxTemplateFiles {
			return fmt.Errorf("there are more than %d files: is this the right folder?", MaxTemplateFiles)
		}
		if size > MaxTemplateBytes {
			return fmt.Errorf("the files have more than %d bytes: is this the right folder?", int64(MaxTemplateBytes))
		}
		return visit(name, info)
	})
}

// checkLink reports a link that leads out of the folder, as its text stands or
// through other links. One to a file that is not there yet may stay.
func checkLink(files fs.FS, name string) error {
	target, err := fs.ReadLink(files, name)
	if err != nil {
		return fmt.Errorf("read the link %s: %w", name, err)
	}
	if path.IsAbs(target) {
		return fmt.Errorf("the link %s leads to %s: only a relative link still leads there in a workspace", name, target)
	}
	inside := path.Join(path.Dir(name), target)
	leaves := inside == ".." || strings.HasPrefix(inside, "../")
	if _, err := fs.Stat(files, name); leaves || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the link %s leads to %s: it must stay in the template's folder", name, target)
	}
	return nil
}

func kind(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeNamedPipe != 0:
		return "named pipe"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}
