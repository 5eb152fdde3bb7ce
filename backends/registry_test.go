package backends_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"claude-runner/backends"
)

// config is the configuration of a kind of these tests.
type config struct{ Host string }

// named is a backend that has a name and a way to close.
type named struct {
	backends.Backend
	name, host string
	closeErr   error
	closed     *int
}

func (n named) Name() string { return n.name }
func (n named) Close() error { *n.closed++; return n.closeErr }

func kind(name string, closed *int, closeErr error) backends.Kind {
	return backends.Define(name, config{Host: "default"}, func(c config, o backends.Options) (backends.Backend, error) {
		if c.Host == "" {
			return nil, errors.New("host is empty")
		}
		return named{name: o.Name, host: c.Host, closed: closed, closeErr: closeErr}, nil
	})
}

func TestRegistry(t *testing.T) {
	var closed int
	broken := errors.New("broken")
	r := backends.NewRegistry(kind("b", &closed, nil), kind("a", &closed, broken))
	if diff := cmp.Diff([]string{"a", "b"}, r.Kinds()); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	k, ok := r.Kind("b")
	if !ok {
		t.Fatal("the registry does not know a kind of its own")
	}
	first, second := k.NewConfig().(*config), k.NewConfig().(*config)
	if first.Host = "changed"; second.Host != "default" {
		t.Errorf("two configurations share their values: %+v", second)
	}
	for name, add := range map[string]error{
		"z": r.Add("b", first, backends.Options{Name: "z"}),
		"y": r.Add("b", second, backends.Options{Name: "y"}),
		"x": r.Add("a", &config{Host: "h"}, backends.Options{Name: "x"}),
	} {
		if add != nil {
			t.Errorf("add %s: %v", name, add)
		}
	}
	if diff := cmp.Diff([]string{"x", "y", "z"}, r.Names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if b, ok := r.Backend("z"); !ok || b.(named).host != "changed" {
		t.Errorf("backend z: %+v, %v", b, ok)
	}
	if _, ok := r.Backend("w"); ok {
		t.Error("there is a backend that nobody added")
	}
	if err := r.Close(); !errors.Is(err, broken) || closed != 3 {
		t.Errorf("Close: %v after %d backends, want all and the error of one", err, closed)
	}
}

func TestRegistryRefuses(t *testing.T) {
	r := backends.NewRegistry(kind("a", new(int), nil))
	if err := r.Add("a", &config{Host: "h"}, backends.Options{Name: "taken"}); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		kind, name string
		cfg        any
		want       string
	}{
		"an unknown kind":              {"b", "x", &config{}, `unknown kind "b", want one of a`},
		"a name that is taken":         {"a", "taken", &config{Host: "h"}, "taken is defined twice"},
		"what the factory refuses":     {"a", "x", &config{}, "backend x: host is empty"},
		"another kind's configuration": {"a", "x", "text", "configuration is a string"},
	} {
		t.Run(what, func(t *testing.T) {
			err := r.Add(c.kind, c.cfg, backends.Options{Name: c.name})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestTwoKindsOfOneNamePanic(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	backends.NewRegistry(kind("a", nil, nil), kind("a", nil, nil))
}
