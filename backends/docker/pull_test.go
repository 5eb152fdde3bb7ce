package docker_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"

	"claude-runner/backends"
)

// store is a registry with images, and a backend that pulls them.
type store struct {
	*rig
	registry *registry
	program  []byte
	arch     string
}

func newStore(t *testing.T, tags ...string) *store {
	s := &store{rig: newRig(t), registry: newRegistry(t)}
	version, err := s.cli.ServerVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.arch = version.Arch
	s.program = buildTool(t, s.arch)
	for _, tag := range tags {
		s.registry.push(t, tag, s.program, s.arch)
	}
	return s
}

// forget removes the image that a tag stands for now at the test's end.
func (s *store) forget(tag string) {
	s.t.Helper()
	found, err := s.cli.ImageInspect(s.t.Context(), s.registry.ref(tag))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_, err := s.cli.ImageRemove(context.Background(), found.ID, image.RemoveOptions{Force: true})
		if err != nil && !cerrdefs.IsNotFound(err) {
			s.t.Errorf("remove image: %v", err)
		}
	})
}

func (s *store) spec(tag string, pull backends.PullPolicy) backends.Spec {
	return backends.Spec{
		Name: "tool", Image: s.registry.ref(tag), Pull: pull, Argv: []string{"tool"}, User: testUser(), Network: backends.NetworkNone,
	}
}

// greeting is what the image of a tag says without arguments and environment.
func greeting(tag string) string {
	return tag + ` [] ["PATH=/image/bin:/" "HOME=/"]` + "\n"
}

// run starts the image of a tag, which the registry knows as pushed, and
// expects it to say what it is.
func (s *store) run(tag, pushed string, pull backends.PullPolicy) {
	s.t.Helper()
	sb := s.start(s.spec(tag, pull))
	s.forget(tag)
	expectEnd(s.t, sb, greeting(pushed), backends.Exit{})
	stop(s.t, sb)
}

func TestPullMissing(t *testing.T) {
	s := newStore(t, "one")
	s.run("one", "one", "") // the default
	asked := s.registry.manifestsAsked()
	if asked == 0 {
		t.Fatal("the image was not pulled")
	}
	s.run("one", "one", backends.PullMissing)
	if n := s.registry.manifestsAsked(); n != asked {
		t.Errorf("an image that is there was looked for in its registry")
	}
}

func TestPullNever(t *testing.T) {
	s := newStore(t, "one")
	if _, err := s.backend.Start(t.Context(), s.spec("one", backends.PullNever)); !errors.Is(err, backends.ErrImageNotFound) {
		t.Errorf("Start: %v, want %v", err, backends.ErrImageNotFound)
	}
	if n := s.registry.manifestsAsked(); n != 0 {
		t.Errorf("the registry was asked %d times", n)
	}
}

func TestPullAlways(t *testing.T) {
	s := newStore(t, "one", "two")
	s.run("one", "one", backends.PullAlways)
	s.registry.mu.Lock()
	s.registry.manifests["one"] = s.registry.manifests["two"] // the tag moves
	s.registry.mu.Unlock()
	s.run("one", "one", backends.PullMissing)
	s.run("one", "two", backends.PullAlways)
}

func TestPullUnknown(t *testing.T) {
	s := newStore(t)
	for _, pull := range []backends.PullPolicy{backends.PullMissing, backends.PullAlways} {
		if _, err := s.backend.Start(t.Context(), s.spec("none", pull)); !errors.Is(err, backends.ErrImageNotFound) {
			t.Errorf("%s: %v, want %v", pull, err, backends.ErrImageNotFound)
		}
	}
	spec := s.spec("none", backends.PullMissing)
	for _, bad := range []string{"", "UPPER/case", "a:b:c"} {
		spec.Image = bad
		if _, err := s.backend.Start(t.Context(), spec); !errors.Is(err, backends.ErrInvalidSpec) {
			t.Errorf("image %q: %v, want %v", bad, err, backends.ErrInvalidSpec)
		}
	}
}

func TestPullProgress(t *testing.T) {
	s := newStore(t, "one")
	s.registry.midway = make(chan struct{})
	halfway := sync.OnceFunc(func() { close(s.registry.midway) })
	var last backends.PullProgress
	spec := s.spec("one", backends.PullMissing)
	spec.OnPull = func(p backends.PullProgress) {
		if p.Image != spec.Image || p.Status == "" || p.Current > p.Total || p.Current < last.Current || p.Total < last.Total {
			t.Errorf("progress %+v after %+v", p, last)
		}
		if last = p; p.Current > 1<<20 {
			halfway() // the registry waits for this
		}
	}
	sb := s.start(spec)
	s.forget("one")
	if want := int64(4<<20 + len(s.program)); last.Current < want || last.Current != last.Total {
		t.Errorf("the last progress is %+v, want %d bytes and all of them", last, want)
	}
	expectEnd(t, sb, greeting("one"), backends.Exit{})
}

func TestPullCancelled(t *testing.T) {
	s := newStore(t, "one")
	s.registry.midway = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	spec := s.spec("one", backends.PullMissing)
	spec.OnPull = func(p backends.PullProgress) {
		if p.Current > 1<<20 {
			cancel()
		}
	}
	if _, err := s.backend.Start(ctx, spec); !errors.Is(err, context.Canceled) {
		t.Errorf("Start: %v, want %v", err, context.Canceled)
	}
	close(s.registry.midway)
}

// What the image says of how it wants to run is not what a sandbox does.
func TestImageConfigurationIsOverridden(t *testing.T) {
	s := newStore(t, "one")
	spec := s.spec("one", backends.PullMissing)
	spec.Env = map[string]string{"GIVEN": "own", "PATH": "/"}
	spec.Argv = []string{"tool", "an argument"}
	spec.Labels = map[string]string{"own": "y"}
	sb := s.start(spec)
	s.forget("one")
	expectEnd(t, sb, `one ["an argument"] ["PATH=/" "GIVEN=own" "HOME=/"]`+"\n", backends.Exit{})
	c, err := s.cli.ContainerInspect(t.Context(), sb.Handle().ID)
	if err != nil {
		t.Fatal(err)
	}
	if c.State.Health != nil || c.Config.User == "0:0" {
		t.Errorf("health %+v, user %s", c.State.Health, c.Config.User)
	}
	handles, err := s.backend.List(t.Context())
	if err != nil || len(handles) != 1 || len(handles[0].Labels) != 1 || handles[0].Labels["own"] != "y" {
		t.Errorf("List: %+v, %v, want the Spec's labels alone", handles, err)
	}
}
