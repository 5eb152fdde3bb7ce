package podman

import (
	"context"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// initFailed is the exit code of the init program catatonit where it can not
// start the main process. It is also an exit code of many programs.
const initFailed = 1

// programMissing reports whether the main process's program is not to be found
// in the container, which has ended.
func (s *sandbox) programMissing(ctx context.Context, found *inspection) bool {
	if s.out.carried() {
		return false // so it was started
	}
	i := slices.Index(found.Args, "--")
	if i < 0 || i+1 >= len(found.Args) {
		return false
	}
	for _, p := range candidates(found.Args[i+1], found.Config.WorkingDir, found.Config.Env) {
		if !s.missingInside(ctx, p) {
			return false
		}
	}
	return true
}

// candidates lists the paths that a program's name may mean.
func candidates(program, dir string, env []string) []string {
	if strings.Contains(program, "/") {
		if !path.IsAbs(program) {
			program = path.Join("/", dir, program)
		}
		return []string{program}
	}
	var out []string
	for _, v := range env {
		if list, ok := strings.CutPrefix(v, "PATH="); ok {
			out = nil
			for _, d := range strings.Split(list, ":") {
				out = append(out, path.Join("/", d, program))
			}
		}
	}
	return out
}

// missingInside reports whether the engine says that the container has no such
// file. Just after the end it may be busy with the container.
func (s *sandbox) missingInside(ctx context.Context, file string) bool {
	for range 5 {
		switch s.b.fileStatus(ctx, s.handle.ID, file) {
		case http.StatusOK:
			return false
		case http.StatusNotFound:
			return true
		}
		if sleep(ctx, 50*time.Millisecond) != nil {
			break
		}
	}
	return false
}

// fileStatus asks for a file of a container. The answer's status is that of
// HTTP, or 0 where there is none.
func (b *Backend) fileStatus(ctx context.Context, id, file string) int {
	status, _ := b.client.head(ctx, "/containers/%s/archive", url.Values{"path": {file}}, id)
	return status
}
