package helper

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"claude-runner/backends/helper/inside"
)

// Program is the helper's program on this host.
type Program struct {
	path    string // for this host
	linux   string // for sandboxes with an image; "": there is none
	missing error  // why
}

// Install puts the helper's program into the folder dir, which every user may
// enter and only this one may write to, unless it is there already. It is a copy,
// so that a new version of the runner can take its own file's place at any time:
// sandboxes that run keep the version that they started with.
func Install(dir string) (*Program, error) {
	p, err := install(dir)
	if err != nil {
		return nil, fmt.Errorf("install the sandbox's helper: %w", err)
	}
	return p, nil
}

func install(dir string) (*Program, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("folder %q is not absolute", dir)
	}
	if err := makeFolder(dir); err != nil {
		return nil, err
	}
	if err := checkExecutable(dir); err != nil {
		return nil, err
	}
	own, err := ownProgram()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	p := &Program{path: filepath.Join(dir, inside.Name)}
	if err := copyProgram(own, p.path); err != nil {
		return nil, err
	}
	if runtime.GOOS == "linux" {
		p.linux = p.path
		return p, nil
	}
	build, err := linuxBuild()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.missing = fmt.Errorf("containers need this program's build for Linux, and there is none: make build puts it at %s, and so does GOOS=linux CGO_ENABLED=0 go build", build)
	case err != nil:
		return nil, err
	default:
		p.linux = filepath.Join(dir, filepath.Base(build))
		return p, copyProgram(build, p.linux)
	}
	return p, nil
}

// linuxBuild is the path of this program's build for Linux, beside itself.
func linuxBuild() (string, error) {
	own, err := os.Executable()
	if err == nil {
		own, err = filepath.EvalSymlinks(own)
	}
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	path := filepath.Join(filepath.Dir(own), "claude-runner-linux-"+runtime.GOARCH)
	_, err = os.Stat(path)
	return path, err
}

// makeFolder makes dir, and lets every user into it.
func makeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err == nil && info.Mode().Perm() != 0o755 {
		err = os.Chmod(dir, 0o755)
	}
	return err
}

// copyProgram makes the file to a copy of from, in one step, unless it is one:
// of the same size and time.
func copyProgram(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	want, err := in.Stat()
	if err != nil {
		return err
	}
	if have, err := os.Lstat(to); err == nil && have.Mode() == 0o555 && have.Size() == want.Size() && have.ModTime().Equal(want.ModTime()) {
		return nil
	}
	out, err := os.CreateTemp(filepath.Dir(to), ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(out.Name())
		}
	}()
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(0o555), out.Sync(), out.Close())
	if err == nil {
		err = os.Chtimes(out.Name(), want.ModTime(), want.ModTime())
	}
	if err == nil {
		err = os.Rename(out.Name(), to)
	}
	return err
}
