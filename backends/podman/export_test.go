package podman

import (
	"context"
	"io"
	"os"
	"time"
)

// NewLogParser is what reads the engine's log.
func NewLogParser(stdout, stderr io.Writer) io.Writer {
	return &logParser{stdout: stdout, stderr: stderr}
}

// CopyLog follows a log that is written to.
func CopyLog(ctx context.Context, log *os.File, stdout io.Writer, ended <-chan struct{}) error {
	return copyLog(ctx, log, &logParser{stdout: stdout, stderr: io.Discard}, ended)
}

// OpenLog opens a log that must be the user's.
func OpenLog(path string, uid int) (*os.File, error) { return openLog(path, uid) }

// Demux splits the engine's multiplexed stream.
func Demux(r io.Reader, stdout, stderr io.Writer) error { return demux(r, stdout, stderr) }

// Output is the pipe between engine and reader.
type Output struct{ o *output }

// OutputLimit is how much it buffers.
const OutputLimit = outputLimit

func NewOutput() Output                      { return Output{newOutput()} }
func (o Output) Write(p []byte) (int, error) { return o.o.Write(p) }
func (o Output) Read(p []byte) (int, error)  { return o.o.Read(p) }
func (o Output) Finish(err error)            { o.o.finish(err) }
func (o Output) Hold(held bool)              { o.o.hold(held) }
func (o Output) Abandon(d time.Duration)     { o.o.abandon(d) }
func (o Output) Done() <-chan struct{}       { return o.o.done }

// PlainRegistry reports whether an image is pulled over plain HTTP.
func PlainRegistry(image string) bool { return plainRegistry(image) }
