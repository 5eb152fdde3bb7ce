package sqlite

import (
	"context"
	"database/sql"
	"os"
	"time"
)

const (
	// checkpointAfter is how long after a write its pages are copied from the
	// write-ahead log to the database, and synced. A power cut takes what was
	// written since.
	checkpointAfter = time.Second
	// maxFrames is how many pages, of 4 KiB, the log may have before the writer
	// waits for it to begin again.
	maxFrames = 32_000
	// The log's file stays as long as it was. One of more than keptBytes is cut
	// when less than quietFrames are in it.
	keptBytes   = 16 << 20
	quietFrames = 1000

	checkpointTimeout = 30 * time.Second // for the writer's connection
)

// wrote has what was written checkpointed, soon and by another connection: SQLite
// would have a transaction wait for that, once in a while.
func (s *Store) wrote() {
	if s.due.CompareAndSwap(false, true) {
		s.checkpoints.Reset(checkpointAfter)
	}
}

// checkpoint copies what is in the write-ahead log while others write. Whatever
// fails is tried again behind the next write, and when the file is closed.
func (s *Store) checkpoint() {
	s.copying.Lock()
	defer s.copying.Unlock()
	s.due.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), checkpointTimeout)
	defer cancel()
	frames, err := copyLog(ctx, s.checkpointer, passive)
	if err != nil {
		return
	}
	mode := passive
	if info, err := os.Stat(s.path + "-wal"); err == nil && info.Size() > keptBytes && frames < quietFrames {
		mode = truncate
	} else if frames < maxFrames {
		return // it begins again by itself when a checkpoint finds nothing to copy
	}
	// What has come meanwhile is little, and the writer waits for the rest alone.
	if _, err := copyLog(ctx, s.checkpointer, passive); err != nil {
		return
	}
	_ = s.writing(ctx, func(conn *sql.Conn) error {
		_, err := copyLog(ctx, conn, mode)
		return err
	})
}

const (
	passive  = `PRAGMA wal_checkpoint(PASSIVE)`
	truncate = `PRAGMA wal_checkpoint(TRUNCATE)`
)

// copyLog copies what nobody reads from the log, and returns how many pages the
// log has.
func copyLog(ctx context.Context, on interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, mode string) (frames int, err error) {
	var busy, copied int
	err = on.QueryRowContext(ctx, mode).Scan(&busy, &frames, &copied)
	return frames, err
}
