package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"claude-runner/backends"
	"claude-runner/backends/local"
	"claude-runner/cmd/claude-runner/internal/cli"
)

// lab is what a run of bench measures with. Its close removes all of it.
type lab struct {
	program  Program
	o        Options
	progress io.Writer
	dir      string // of this run alone, by whose name its processes are known
	cli      string // "": there is none, and
	noCLI    string // says why
	model    *modelServer
	http     *http.Client
	fast     fasthttp.Client // for many requests: see server.post
	servers  atomic.Int64
	pipes    atomic.Int64
	marks    atomic.Int64
}

// maxConns is more connections to a server than turns are ever under way.
const maxConns = 10_000

// openLab makes the folder, and starts the model.
func openLab(p Program, o Options, progress io.Writer) (*lab, error) {
	l := &lab{program: p, o: o, progress: progress, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: maxConns}}}
	l.fast.MaxConnsPerHost = maxConns
	if o.DataDir != "" {
		if err := os.MkdirAll(o.DataDir, 0o711); err != nil {
			return nil, fmt.Errorf("--data-dir: %w", err)
		}
	}
	dir, err := os.MkdirTemp(o.DataDir, "claude-runner-bench-")
	if err != nil {
		return nil, fmt.Errorf("make the run's folder: %w; name another with --data-dir", err)
	}
	if l.dir, err = filepath.Abs(dir); err == nil {
		err = os.Chmod(dir, 0o711) // sandboxes pass through
	}
	if err == nil {
		l.model, err = startModel()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := l.findCLI(); err != nil {
		l.noCLI = err.Error()
	}
	return l, nil
}

// close ends the model and removes the folder. The servers have ended before.
func (l *lab) close() error {
	l.http.CloseIdleConnections()
	l.fast.CloseIdleConnections()
	return errors.Join(l.model.server.Close(), os.RemoveAll(l.dir), l.remains())
}

// remains says what is left of the run, if anything is.
func (l *lab) remains() error {
	left, err := processesIn(filepath.Base(l.dir))
	if err != nil || len(left) == 0 {
		return nil // a system that does not tell is not asked again
	}
	return fmt.Errorf("processes of the run are left: %v", left)
}

// say tells how far the run is.
func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(l.progress, "bench: "+format+"\n", args...)
}

// findCLI finds the CLI, and puts it into a folder by itself, as claude.
func (l *lab) findCLI() error {
	path := l.o.CLI
	if path == "" {
		var err error
		if path, err = exec.LookPath("claude"); err != nil {
			return fmt.Errorf("there is no CLI here: %s; or name it with --cli", cli.Advice(""))
		}
	}
	path, err := filepath.Abs(path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err == nil {
		err = os.Mkdir(l.cliDir(), 0o755)
	}
	if err == nil {
		err = os.Symlink(path, filepath.Join(l.cliDir(), "claude"))
	}
	if err == nil {
		l.cli = path
	}
	return err
}

func (l *lab) cliDir() string { return filepath.Join(l.dir, "cli") }

// searchPath is where sandboxes of the local backend find programs: the CLI in
// dir, and the system's.
func searchPath(dir string) []string { return []string{dir, "/usr/local/bin", "/usr/bin", "/bin"} }

// cliVersion is what the CLI says of itself.
func (l *lab) cliVersion(ctx context.Context) string {
	if l.cli == "" {
		return ""
	}
	cmd := exec.CommandContext(ctx, l.cli, "--version")
	cmd.Env = []string{"HOME=" + l.dir, "PATH=/usr/bin:/bin"}
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(string(out))
}

// findBackends asks each wanted backend whether it works. The others are in
// skipped, with the reason.
func (l *lab) findBackends(ctx context.Context) (found []*backendResult, skipped []skippedBackend) {
	registry := backends.NewRegistry(l.program.Kinds...)
	defer registry.Close()
	for _, kind := range l.program.Kinds {
		if len(l.o.Backends) > 0 && !slices.Contains(l.o.Backends, kind.Name) {
			continue
		}
		status, images, err := l.probe(ctx, registry, kind)
		if err != nil {
			skipped = append(skipped, skippedBackend{kind.Name, err.Error()})
			l.say("%s is left out: %v", kind.Name, err)
			continue
		}
		found = append(found, &backendResult{Name: kind.Name, Version: status.Version, images: images})
	}
	return found, skipped
}

// probe starts the CLI on a backend, and reports whether it uses images.
func (l *lab) probe(ctx context.Context, r *backends.Registry, kind backends.Kind) (backends.Status, bool, error) {
	settings := kind.NewConfig()
	if c, ok := settings.(*local.Config); ok {
		c.Path = searchPath(l.cliDir())
	}
	err := r.Add(kind.Name, settings, backends.Options{
		Name: kind.Name, Instance: "bench-" + uuid.NewString(), StateDir: filepath.Join(l.dir, "probe", kind.Name),
		User: l.sandboxUser(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return backends.Status{}, false, err
	}
	b, _ := r.Backend(kind.Name)
	images := b.Capabilities().Images
	if !images && l.cli == "" {
		return backends.Status{}, images, errors.New(l.noCLI)
	}
	status, err := b.Check(ctx)
	if err != nil {
		return status, images, err
	}
	image := ""
	if images {
		image = l.o.Image
	}
	if _, err := cli.Version(ctx, b, image, l.sandboxUser()); err != nil {
		return status, images, fmt.Errorf("the CLI does not start: %w; %s", err, cli.Advice(image))
	}
	return status, images, nil
}

// sandboxUser is who runs agents: an unprivileged user where this one is root.
func (l *lab) sandboxUser() backends.User {
	return backends.OwnUser(backends.User{UID: 10001, GID: 10001}) // as the configuration's default
}

// makeFolders makes folders that the sandboxes' user owns.
func (l *lab) makeFolders(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(dir, l.sandboxUser().UID, l.sandboxUser().GID); err != nil {
				return err
			}
		}
	}
	return nil
}

// mark is a message that no other turn has.
func (l *lab) mark() string { return "turn " + strconv.FormatInt(l.marks.Add(1), 10) }

// pause waits; it is cut short by ctx's end.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// folderSize is the number of bytes of a folder's own files.
func folderSize(dir string) (size int64, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if info.Mode().IsRegular() {
			size += info.Size()
		}
	}
	return size, err
}
