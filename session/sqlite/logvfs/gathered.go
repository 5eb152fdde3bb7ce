package logvfs

import "encoding/binary"

// The form of a write-ahead log, from https://www.sqlite.org/fileformat.html:
// behind its header come frames, each with a header of its own and a page.
const (
	logHeader   = 32
	frameHeader = 24
	pageSize    = 4096 // SQLite's default; pages of another size are not gathered
	frameSize   = frameHeader + pageSize

	// maxGathered is how many bytes of a transaction are held back: less than the
	// 128 KiB that SQLite's own VFS can write at once.
	maxGathered = 31 * frameSize
)

// gathered is what was appended to a log and is yet to be written. Nobody reads
// it before its transaction is whole: until then the log's index, by which readers
// go, does not name it.
type gathered struct {
	held []byte
	off  int64 // of held in the file
	end  int64 // of what was written or is held
	last bool  // the last frame's header ends a transaction
}

// add holds back a part of a frame that goes on where the one before it has
// ended, and reports whether it did. What is then due is to be written at once.
func (g *gathered) add(p []byte, off int64) (held, due bool) {
	switch {
	case len(p) == frameHeader && g.beginsFrame(off):
		if len(g.held) == 0 {
			g.off = off
		}
		g.last = binary.BigEndian.Uint32(p[4:]) != 0 // the database's size behind the transaction
	case len(p) == pageSize && len(g.held)%frameSize == frameHeader && off == g.end:
		due = g.last || len(g.held)+len(p) >= maxGathered
	default:
		return false, true
	}
	g.held = append(g.held, p...)
	g.end = off + int64(len(p))
	return true, due
}

// beginsFrame reports whether a frame's header at off is appended. One that is
// written over another has no page behind it.
func (g *gathered) beginsFrame(off int64) bool {
	if len(g.held) > 0 {
		return len(g.held)%frameSize == 0 && off == g.end
	}
	return off >= max(g.end, logHeader) && (off-logHeader)%frameSize == 0
}

// wrote notes what was written past what is held, of which nothing is left. At
// the file's beginning, it begins a new log.
func (g *gathered) wrote(n int, off int64) {
	if off == 0 {
		g.end = 0
	}
	g.end = max(g.end, off+int64(n))
}

// take returns what is to be written, and where; p is valid until the next add.
func (g *gathered) take() (p []byte, off int64) {
	p = g.held
	g.held = g.held[:0]
	return p, g.off
}
