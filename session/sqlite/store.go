// Package sqlite keeps sessions, tasks and events in one SQLite file.
package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"claude-runner/session"
	"claude-runner/session/sqlite/logvfs"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is a session.Store in a file. Writes go through one connection, reads
// through several, which see what is committed and wait for no writer.
type Store struct {
	write *sql.DB
	read  *sql.DB

	path string
	file os.FileInfo // of what was opened

	writer *writer // of write's connection; only who holds that uses it
	statements

	checkpointer *sql.DB
	checkpoints  *time.Timer
	due          atomic.Bool // checkpoints is running
	copying      sync.Mutex  // held by checkpoint

	closing sync.Once
}

var _ session.Store = (*Store)(nil)

// Open opens the file, makes it where it is missing (mode 0600), and brings it
// to this program's form.
func Open(ctx context.Context, path string) (*Store, error) {
	if err := makeFile(path); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := logvfs.Register(); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	write, err := sql.Open("sqlite", dsn(path, "immediate")+"&vfs="+logvfs.Name)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	if err := migrate(ctx, write); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w%s", path, err, advice(err)), write.Close())
	}
	s := &Store{write: write, path: path}
	if s.file, err = os.Stat(path); err != nil {
		return nil, errors.Join(fmt.Errorf("open database: %w", err), write.Close())
	}
	if s.read, err = sql.Open("sqlite", dsn(path, "deferred")+"&_pragma=query_only(1)"); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), write.Close())
	}
	s.read.SetMaxOpenConns(max(4, runtime.NumCPU()))
	if s.checkpointer, err = sql.Open("sqlite", dsn(path, "deferred")); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), s.read.Close(), write.Close())
	}
	s.checkpointer.SetMaxOpenConns(1)
	s.checkpoints = time.AfterFunc(time.Hour, s.checkpoint)
	s.checkpoints.Stop()
	err = s.inWriter(ctx, func(*writer) error { return nil })
	// Now, and not when there is something to copy: another file may be in its place then.
	if err = errors.Join(err, s.prepare(ctx), s.checkpointer.PingContext(ctx)); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), s.Close())
	}
	return s, nil
}

// makeFile makes the database's file, which may hold secrets of tasks that
// wait, so that only its owner reads it. SQLite gives its other files the same
// mode.
func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// dsn names the file with the settings that every connection needs.
func dsn(path, transactions string) string {
	u := url.URL{Scheme: "file", Opaque: url.PathEscape(path)}
	q := url.Values{"_txlock": {transactions}, "_pragma": {
		"busy_timeout(3000)", "journal_mode(WAL)", "synchronous(NORMAL)", "foreign_keys(1)",
		"wal_autocheckpoint(0)", // see checkpoint
	}}
	u.RawQuery = q.Encode()
	return u.String()
}

func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("bring its tables up to date: %w", err)
	}
	return nil
}

// advice says what to do about a file that can't be used.
func advice(err error) string {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return ""
	}
	switch e.Code() & 0xff { // the rest says more of the same
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return "; the file is damaged: restore it with its -wal file from a backup, or move both away to begin with an empty one"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return "; this user must be able to write the file and its folder"
	case sqlite3.SQLITE_FULL:
		return "; the disk is full"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return "; another program holds it: end that one"
	default:
		return ""
	}
}

// Close closes the file. A second time it does nothing.
func (s *Store) Close() (err error) {
	s.closing.Do(func() {
		s.checkpoints.Stop()
		s.copying.Lock()
		defer s.copying.Unlock()
		err = errors.Join(s.checkpointer.Close(), s.read.Close(), s.closeWriter(), s.write.Close())
	})
	return err
}

// Instance returns this database's name, made at the first call.
func (s *Store) Instance(ctx context.Context) (string, error) {
	var name string
	err := s.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO meta (key, value) VALUES ('instance', ?) ON CONFLICT DO NOTHING`, uuid.NewString()); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = 'instance'`).Scan(&name)
	})
	return name, err
}

// inTx runs do in a transaction of the writing connection. ctx bounds the wait
// for that, and no more: database/sql throws a connection away in which a statement
// was cancelled.
func (s *Store) inTx(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	return s.writing(ctx, func(conn *sql.Conn) error {
		ctx := context.WithoutCancel(ctx)
		tx, err := conn.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err := do(ctx, tx); err != nil {
			return errors.Join(err, rollback(tx))
		}
		defer s.wrote()
		return tx.Commit()
	})
}

// writing gives the writing connection to do, which nobody else has meanwhile.
func (s *Store) writing(ctx context.Context, do func(*sql.Conn) error) error {
	if err := s.present(); err != nil {
		return err
	}
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return do(conn)
}

// inWriter is inTx with the writer's statements.
func (s *Store) inWriter(ctx context.Context, do func(*writer) error) error {
	return s.writing(ctx, func(conn *sql.Conn) error {
		return conn.Raw(func(c any) (err error) {
			if w := s.writer; w == nil || w.conn != c {
				if s.writer, err = newWriter(c.(driver.Conn)); err != nil {
					return err
				}
			}
			defer s.wrote()
			return s.writer.inTx(func() error { return do(s.writer) })
		})
	})
}

// closeWriter closes the writer's statements, without which their connection does
// not close.
func (s *Store) closeWriter() error {
	conn, err := s.write.Conn(context.Background())
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(c any) error {
		if w := s.writer; w != nil && w.conn == c {
			s.writer = nil
			return w.close()
		}
		return nil
	})
}

// present returns an error where the path no longer leads to the file that was
// opened. What is written to that one is lost with this process.
func (s *Store) present() error {
	now, err := os.Stat(s.path)
	if err == nil && !os.SameFile(now, s.file) {
		err = errors.New("another file is in its place")
	}
	if err != nil {
		return fmt.Errorf("the database was removed while it was in use, restart the runner: %w", err)
	}
	return nil
}

func rollback(tx *sql.Tx) error {
	if err := tx.Rollback(); !errors.Is(err, sql.ErrTxDone) {
		return err
	}
	return nil
}

// found turns "no rows" into session.ErrNotFound.
func found(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return session.ErrNotFound
	}
	return err
}
