package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Errors are all problems of a configuration: those of the file first, by
// line. It is the only kind of error that Load returns.
type Errors []FieldError

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.As the FieldErrors.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, f := range e {
		errs[i] = f
	}
	return errs
}

// FieldError is one problem, or one warning, of a configuration.
type FieldError struct {
	Path    string // such as agents.support.limits.memory; "" for the whole
	Source  string // a file's name, "environment variable NAME", "flag --name"; "" for a default
	Line    int    // of the file, from 1; 0 where there is none
	Message string // what is wrong and what to write instead
}

func (e FieldError) Error() string {
	var parts []string
	switch {
	case e.Line > 0:
		parts = append(parts, fmt.Sprintf("%s:%d", e.Source, e.Line))
	case e.Source != "":
		parts = append(parts, e.Source)
	}
	if e.Path != "" {
		parts = append(parts, e.Path)
	}
	return strings.Join(append(parts, e.Message), ": ")
}

// sorted returns fields in the order of Errors, each once.
func sorted(fields []FieldError) []FieldError {
	slices.SortFunc(fields, func(a, b FieldError) int {
		return cmp.Or(
			compareLines(a.Line, b.Line),
			cmp.Compare(a.Source, b.Source),
			cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Message, b.Message),
		)
	})
	return slices.Compact(fields)
}

// compareLines puts what has no line behind what has one.
func compareLines(a, b int) int {
	if (a == 0) != (b == 0) {
		return cmp.Compare(b, a)
	}
	return cmp.Compare(a, b)
}

// report collects problems and warnings while a configuration is read.
type report struct {
	settings *settings
	errs     []FieldError
	warnings []FieldError
	failed   map[string]bool // by path.key: where there is a problem
}

// errorf notes a problem of the value at p.
func (r *report) errorf(p path, format string, args ...any) {
	r.failed[p.key()] = true
	r.errs = append(r.errs, r.field(p, format, args...))
}

// warnf notes a warning about the value at p.
func (r *report) warnf(p path, format string, args ...any) {
	r.warnings = append(r.warnings, r.field(p, format, args...))
}

// errorAt notes a problem of something that is no value of the configuration.
func (r *report) errorAt(o origin, p path, format string, args ...any) {
	r.errs = append(r.errs, FieldError{Path: p.String(), Source: o.source, Line: o.line, Message: fmt.Sprintf(format, args...)})
}

func (r *report) field(p path, format string, args ...any) FieldError {
	o := r.settings.origin(p)
	return FieldError{Path: p.String(), Source: o.source, Line: o.line, Message: fmt.Sprintf(format, args...)}
}

// err returns the problems as Errors, nil where there are none.
func (r *report) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	return Errors(sorted(r.errs))
}
