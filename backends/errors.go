package backends

import "errors"

// Errors that a backend's methods wrap; match them with errors.Is.
var (
	ErrUnavailable   = errors.New("backend is not available")
	ErrInvalidSpec   = errors.New("invalid sandbox specification")
	ErrImageNotFound = errors.New("image not found")
	ErrExists        = errors.New("sandbox exists already")
	ErrNotFound      = errors.New("sandbox not found")
	ErrStopped       = errors.New("sandbox is stopped")
)
