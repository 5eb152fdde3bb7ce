package podman

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// logPoll is how often a growing log is looked at.
const logPoll = 20 * time.Millisecond

// logParser takes apart the engine's log (driver k8s-file). An entry is
//
//	TIME STREAM TAG DATA\n
//
// where STREAM is stdout or stderr, and TAG is F where DATA ends with the line
// end that closes the entry, or P where that line end is not part of the data.
// Together the data of a stream's entries is that stream, byte for byte.
type logParser struct {
	stdout, stderr io.Writer
	header         []byte // of the entry that is being read, up to its third space
	spaces         int    // in header; 3: what follows is data
}

// maxLogHeader is more than a header has.
const maxLogHeader = 128

// Write takes any piece of a log. It fails where that is none, or a writer does.
func (p *logParser) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		if p.spaces < 3 {
			part, _, found := bytes.Cut(rest, []byte(" "))
			if found {
				part = rest[:len(part)+1]
				p.spaces++
			}
			if p.header = append(p.header, part...); len(p.header) > maxLogHeader {
				return len(b) - len(rest), fmt.Errorf("podman: not a container's log: an entry begins with %.60q", p.header)
			}
			rest = rest[len(part):]
			continue
		}
		to, full, err := p.entry()
		if err != nil {
			return len(b) - len(rest), err
		}
		data, _, ends := bytes.Cut(rest, []byte("\n"))
		next := rest[len(data):]
		if ends {
			next = next[1:]
			if full {
				data = rest[:len(data)+1]
			}
			p.header, p.spaces = p.header[:0], 0
		}
		if _, err := to.Write(data); err != nil {
			return len(b) - len(rest), err
		}
		rest = next
	}
	return len(b), nil
}

// entry says what the header does: whose the data is, and whether its line end
// belongs to it.
func (p *logParser) entry() (to io.Writer, full bool, err error) {
	switch f := bytes.Fields(p.header); {
	case len(f) != 3:
	case string(f[1]) == "stdout":
		return p.stdout, string(f[2]) == "F", nil
	case string(f[1]) == "stderr":
		return p.stderr, string(f[2]) == "F", nil
	}
	return nil, false, fmt.Errorf("podman: not a container's log: an entry begins with %q", p.header)
}

// skip passes on what is written to it but for the first n bytes.
type skip struct {
	to io.Writer
	n  int64
}

func (s *skip) Write(p []byte) (int, error) {
	k := min(s.n, int64(len(p)))
	s.n -= k
	if _, err := s.to.Write(p[k:]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// openLog opens the log of a container for a service whose owner has that uid.
// The path comes from the service, which must not be able to have a runner
// that is root read another's file.
func openLog(path string, uid int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.Mode().IsRegular() || !ok || int(st.Uid) != uid {
		f.Close()
		return nil, fmt.Errorf("the log %s is not a file of user %d", path, uid)
	}
	return f, nil
}

// copyLog writes the whole log to the parser and follows it until ended is
// closed, behind which nothing is added.
func copyLog(ctx context.Context, log *os.File, to *logParser, ended <-chan struct{}) error {
	poll := time.NewTicker(logPoll)
	defer poll.Stop()
	buf := make([]byte, 64<<10)
	for last := false; ; {
		if _, err := io.CopyBuffer(to, struct{ io.Reader }{log}, buf); err != nil {
			return err
		}
		if last {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ended:
			last = true
		case <-poll.C:
		}
	}
}

// isUnreadable reports whether a log is there, but not for the runner.
func isUnreadable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist)
}
