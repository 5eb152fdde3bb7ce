package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"claude-runner/backends"
)

// markVar is in the environment of a sandbox's processes, with the sandbox's
// id: they can be found by it when the keeper was killed.
const markVar = "CLAUDE_RUNNER_SANDBOX"

// minOpenFiles is the smallest limit of open files: a keeper has some open.
const minOpenFiles = 32

// Start implements backends.Backend.
func (b *backend) Start(ctx context.Context, spec backends.Spec) (backends.Sandbox, error) {
	s, err := b.start(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", spec.Name, err)
	}
	return s, nil
}

func (b *backend) start(ctx context.Context, spec backends.Spec) (*sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o, err := b.order(spec)
	if err != nil {
		return nil, err
	}
	if err := b.available(); err != nil {
		return nil, err
	}
	f := b.folder(spec.Name)
	lock, err := f.claim()
	if err != nil {
		return nil, err
	}
	defer lock.Close() // the keeper has it too
	s, err := b.launch(ctx, f, lock, o)
	if err != nil {
		return nil, errors.Join(err, f.remove())
	}
	return s, nil
}

// order turns a Spec into what a keeper is told.
func (b *backend) order(spec backends.Spec) (order, error) {
	if err := spec.Validate(); err != nil {
		return order{}, err
	}
	if spec.Network == backends.NetworkNone {
		return order{}, invalid("network %q: this backend's sandboxes have the host's network, want %q", spec.Network, backends.NetworkOpen)
	}
	if n := spec.Limits.OpenFiles; n > 0 && n < minOpenFiles {
		return order{}, invalid("limit of %d open files: want at least %d", n, minOpenFiles)
	}
	user, err := b.userOf(spec)
	if err != nil {
		return order{}, err
	}
	for _, m := range spec.Mounts {
		if err := m.CheckSource(); err != nil {
			return order{}, err
		}
	}
	dir := spec.Dir
	if dir == "" {
		dir = "/"
	}
	if info, err := os.Stat(dir); err != nil {
		return order{}, invalid("working folder: %w", err)
	} else if !info.IsDir() {
		return order{}, invalid("working folder %s is not a folder", dir)
	}
	id := rand.Text()
	env := b.environment(spec.Env, id)
	program, err := lookProgram(spec.Argv[0], env["PATH"], dir)
	if err != nil {
		return order{}, err
	}
	h := backends.Handle{Backend: b.name, ID: id, Name: spec.Name, Labels: maps.Clone(spec.Labels)}
	if h.Labels == nil {
		h.Labels = map[string]string{}
	}
	h.Labels[backends.LabelManaged], h.Labels[backends.LabelInstance] = "true", b.instance
	return order{
		Handle: h, Program: program, Argv: spec.Argv, Env: assignments(env), Dir: dir, User: user,
		OpenFiles: spec.Limits.OpenFiles, CPUTime: spec.Limits.CPUTime, Timeout: spec.Timeout,
	}, nil
}

// userOf is who the sandbox's processes are; nil where that is the runner.
func (b *backend) userOf(spec backends.Spec) (*backends.User, error) {
	own := backends.User{UID: os.Geteuid(), GID: os.Getegid()}
	u := spec.User
	if own.UID != 0 {
		if u != (backends.User{}) && u != own {
			return nil, invalid("user %d:%d: the runner is %d:%d, and only root may start processes of others", u.UID, u.GID, own.UID, own.GID)
		}
		return nil, nil
	}
	if u == (backends.User{}) {
		u = b.user
	}
	if u.UID == 0 || u.GID == 0 {
		return nil, invalid("user %d:%d: sandboxes do not run as root here: name an unprivileged user and group", u.UID, u.GID)
	}
	return &u, nil
}

// environment is the whole environment of the main process.
func (b *backend) environment(given map[string]string, id string) map[string]string {
	env := map[string]string{"PATH": b.path}
	for k, v := range given {
		env[k] = strings.ReplaceAll(v, backends.HostAlias, "localhost")
	}
	env[markVar] = id
	return env
}

func assignments(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

// lookProgram finds name as a shell does that is in dir.
func lookProgram(name, path, dir string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil // the system's word on it is as good
	}
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		p := filepath.Join(d, name)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", invalid("program %q is in no folder of the search path %q", name, path)
}

// invalid returns an ErrInvalidSpec.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalidSpec}, args...)...)
}
