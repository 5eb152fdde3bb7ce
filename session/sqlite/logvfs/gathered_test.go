package logvfs

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// file is a log to which a gathered writes as the VFS has it write.
type file struct {
	gathered
	data   []byte
	writes int
}

func (f *file) write(p []byte, off int64) {
	held, due := f.add(p, off)
	if due {
		if q, at := f.take(); len(q) > 0 {
			f.put(q, at)
		}
	}
	if !held {
		f.put(p, off)
		f.wrote(len(p), off)
	}
}

func (f *file) put(p []byte, off int64) {
	f.writes++
	if missing := int(off) + len(p) - len(f.data); missing > 0 {
		f.data = append(f.data, make([]byte, missing)...)
	}
	copy(f.data[off:], p)
}

func header(size uint32) []byte {
	h := bytes.Repeat([]byte{0xaa}, frameHeader)
	binary.BigEndian.PutUint32(h[4:], size)
	return h
}

const (
	goesOn = 0 // the database's size in a frame's header
	ends   = 9
)

func frameAt(n int) int64 { return logHeader + int64(n)*frameSize }

// part is what SQLite writes, or the file is to have been written in.
type part struct {
	p   []byte
	off int64
}

func frame(n int, size uint32) []part {
	return []part{{header(size), frameAt(n)}, {bytes.Repeat([]byte{byte(n + 1)}, pageSize), frameAt(n) + frameHeader}}
}

func TestGathered(t *testing.T) {
	begin := part{bytes.Repeat([]byte{0xbb}, logHeader), 0}
	many := []part{begin}
	for n := range 40 {
		many = append(many, frame(n, goesOn)...)
	}
	many = append(many, frame(40, ends)...)
	join := func(parts ...[]part) (all []part) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for name, c := range map[string]struct {
		parts  []part
		writes int
	}{
		"one page":              {join([]part{begin}, frame(0, ends)), 2},
		"three pages":           {join([]part{begin}, frame(0, goesOn), frame(1, goesOn), frame(2, ends)), 2},
		"two transactions":      {join([]part{begin}, frame(0, goesOn), frame(1, ends), frame(2, goesOn), frame(3, ends)), 3},
		"more than is held":     {many, 3},
		"a log that was there":  {join(frame(7, goesOn), frame(8, ends)), 1},
		"a log that begins new": {join(frame(7, ends), []part{begin}, frame(0, goesOn), frame(1, ends)), 3},
		"the last page again":   {join([]part{begin}, frame(0, goesOn), frame(1, ends), frame(2, ends)), 3}, // to fill a sector
		"a transaction that is taken back": {
			join([]part{begin}, frame(0, goesOn), frame(1, goesOn), frame(0, ends)), 4, // what was held, and the other piece by piece
		},
		"a page that is written again": {
			join([]part{begin}, frame(0, goesOn), []part{{make([]byte, pageSize), frameAt(0) + frameHeader}}, frame(1, ends)), 4,
		},
		"headers that are written again": { // with new checksums
			join([]part{begin}, frame(0, goesOn), frame(1, ends), []part{{header(goesOn), frameAt(0)}, {header(ends), frameAt(1)}}), 4,
		},
		"headers of what was written piece by piece": {
			join(frame(5, ends), frame(0, goesOn), frame(1, ends), []part{{header(ends), frameAt(1)}}), 6,
		},
		"pages of another size": {
			[]part{begin, {header(goesOn), frameAt(0)}, {make([]byte, 512), frameAt(0) + frameHeader}, {header(ends), frameAt(0) + frameHeader + 512}, {make([]byte, 512), frameAt(0) + 2*frameHeader + 512}, {header(ends), frameAt(0)}}, 6,
		},
		"a page in two pieces": { // with a sync in between
			[]part{begin, {header(ends), frameAt(0)}, {make([]byte, pageSize-frameHeader), frameAt(0) + frameHeader}, {make([]byte, frameHeader), frameAt(0) + pageSize}}, 4,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got, want file
			for _, p := range c.parts {
				got.write(p.p, p.off)
				want.put(p.p, p.off)
			}
			if !bytes.Equal(got.data, want.data) {
				t.Errorf("the file has %d bytes and is not what was written, of %d bytes; %d bytes are held back", len(got.data), len(want.data), len(got.held))
			}
			if got.writes != c.writes {
				t.Errorf("it was written %d times, want %d", got.writes, c.writes)
			}
		})
	}
}

func TestNothingIsHeldBehindATransaction(t *testing.T) {
	var f file
	for n := range 3 {
		for i, p := range frame(n, uint32(ends*(n/2))) {
			f.write(p.p, p.off)
			if whole := n == 2 && i == 1; whole != (len(f.held) == 0) {
				t.Errorf("%d bytes are held behind part %d of frame %d", len(f.held), i, n)
			}
		}
	}
}
