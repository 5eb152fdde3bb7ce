package backends

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// Options is what every factory is given.
type Options struct {
	Name     string       // the backend's configured name
	Instance string       // this runner's id, for LabelInstance
	StateDir string       // an absolute folder of this backend's own, made on demand by it
	User     User         // who sandboxes are where a Spec names nobody and the runner is root
	Log      *slog.Logger // never nil
}

// Kind is a sort of backend that the configuration can name.
type Kind struct {
	Name string
	// NewConfig returns a pointer to the kind's configuration, filled with its
	// defaults. Its fields carry koanf tags.
	NewConfig func() any
	// New makes a backend from such a configuration. It does not talk to the
	// engine: a dead one is Check's to report.
	New func(cfg any, opts Options) (Backend, error)
}

// Define makes a Kind from a typed factory.
func Define[C any](name string, defaults C, create func(C, Options) (Backend, error)) Kind {
	return Kind{
		Name:      name,
		NewConfig: func() any { c := defaults; return &c },
		New: func(cfg any, opts Options) (Backend, error) {
			c, ok := cfg.(*C)
			if !ok {
				return nil, fmt.Errorf("backend kind %s: configuration is a %T", name, cfg)
			}
			return create(*c, opts)
		},
	}
}

// Registry knows the kinds and holds the backends made from them. It is built
// once, at start; after that it is only read.
type Registry struct {
	kinds    map[string]Kind
	backends map[string]Backend
}

// NewRegistry returns a Registry of these kinds. Two of one name panic.
func NewRegistry(kinds ...Kind) *Registry {
	r := &Registry{kinds: map[string]Kind{}, backends: map[string]Backend{}}
	for _, k := range kinds {
		if _, ok := r.kinds[k.Name]; ok {
			panic("backends: kind " + k.Name + " is registered twice")
		}
		r.kinds[k.Name] = k
	}
	return r
}

// Kinds returns the kinds' names, sorted.
func (r *Registry) Kinds() []string { return slices.Sorted(maps.Keys(r.kinds)) }

// Kind returns the kind of that name.
func (r *Registry) Kind(name string) (Kind, bool) { k, ok := r.kinds[name]; return k, ok }

// Add makes the backend opts.Name of a kind from cfg, which the kind's
// NewConfig made.
func (r *Registry) Add(kind string, cfg any, opts Options) error {
	k, ok := r.kinds[kind]
	if !ok {
		return fmt.Errorf("backend %s: unknown kind %q, want one of %s", opts.Name, kind, strings.Join(r.Kinds(), ", "))
	}
	if _, ok := r.backends[opts.Name]; ok {
		return fmt.Errorf("backend %s is defined twice", opts.Name)
	}
	b, err := k.New(cfg, opts)
	if err != nil {
		return fmt.Errorf("backend %s: %w", opts.Name, err)
	}
	r.backends[opts.Name] = b
	return nil
}

// Names returns the backends' names, sorted.
func (r *Registry) Names() []string { return slices.Sorted(maps.Keys(r.backends)) }

// Backend returns the backend of that name.
func (r *Registry) Backend(name string) (Backend, bool) { b, ok := r.backends[name]; return b, ok }

// Close closes every backend.
func (r *Registry) Close() error {
	var errs []error
	for _, name := range r.Names() {
		errs = append(errs, r.backends[name].Close())
	}
	return errors.Join(errs...)
}
