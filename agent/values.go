package agent

import (
	"fmt"
	"log/slog"

	"github.com/docker/go-units"
)

// Secret is a string that does not show itself: printed, logged or encoded it
// is "[secret]", or "" where it is empty. Reveal gives the value.
type Secret string

const masked = "[secret]"

// Reveal returns the value.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// GoString keeps %#v from showing the value.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// LogValue keeps the value out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps the value out of JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Bytes is a size in bytes, written in the configuration as 512MiB, 1GiB, or a
// plain number of bytes. Units are powers of 1024.
type Bytes int64

// UnmarshalText reads "64MiB", "1g", "1048576".
func (b *Bytes) UnmarshalText(text []byte) error {
	n, err := units.RAMInBytes(string(text))
	if err != nil || n < 0 {
		return fmt.Errorf("size %q: want a number with a unit, such as 512MiB or 1GiB", text)
	}
	*b = Bytes(n)
	return nil
}

func (b Bytes) String() string { return units.BytesSize(float64(b)) }
