// Package logvfs has SQLite write a transaction to its write-ahead log with one
// system call. SQLite itself makes two for each page, which cost a small
// transaction more than anything else it does.
//
// It is a VFS (https://www.sqlite.org/vfs.html): SQLite's own, but for what is
// appended to a log. That is held back until the page that ends the transaction,
// and is written before SQLite tells any reader of it. So the files are the same,
// and a process that is killed leaves no less behind.
package logvfs

import (
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// Name names the VFS in a database's address (file:PATH?vfs=NAME), once it is
// registered.
const Name = "claude-runner-log"

// Register makes the VFS known to SQLite, the first time it is called.
var Register = sync.OnceValue(register)

var (
	vfs        sqlite3.Tsqlite3_vfs
	logMethods sqlite3.Tsqlite3_io_methods // what takes the place of system.methods

	system struct { // SQLite's own
		open    openFunc
		methods *sqlite3.Tsqlite3_io_methods // of a log; nil before one was opened
		learn   sync.Mutex
	}

	logs sync.Map // the *gathered of each open log, by its sqlite3_file's address
)

// The methods of SQLite's that are called or replaced. They return its codes.
type (
	openFunc  = func(tls *libc.TLS, vfs, name, file uintptr, flags int32, outFlags uintptr) int32
	moveFunc  = func(tls *libc.TLS, file, buf uintptr, n int32, off int64) int32
	sizeFunc  = func(tls *libc.TLS, file uintptr, size int64) int32
	syncFunc  = func(tls *libc.TLS, file uintptr, flags int32) int32
	askFunc   = func(tls *libc.TLS, file, answer uintptr) int32
	closeFunc = func(tls *libc.TLS, file uintptr) int32
)

func register() error {
	tls := libc.NewTLS()
	defer tls.Close()
	found := sqlite3.Xsqlite3_vfs_find(tls, 0)
	if found == 0 {
		return fmt.Errorf("register the VFS %s: SQLite has none to begin with", Name)
	}
	name, err := libc.CString(Name)
	if err != nil {
		return fmt.Errorf("register the VFS %s: %w", Name, err)
	}
	vfs = *at[sqlite3.Tsqlite3_vfs](found)
	system.open = function[openFunc](vfs.FxOpen)
	vfs.FpNext, vfs.FzName, vfs.FxOpen = 0, name, address(openFile)
	if rc := sqlite3.Xsqlite3_vfs_register(tls, uintptr(unsafe.Pointer(&vfs)), 0); rc != sqlite3.SQLITE_OK {
		return fmt.Errorf("register the VFS %s: SQLite's error %d", Name, rc)
	}
	return nil
}

// openFile opens a file as SQLite does. A log gets methods of ours.
func openFile(tls *libc.TLS, vfs, name, file uintptr, flags int32, outFlags uintptr) int32 {
	rc := system.open(tls, vfs, name, file, flags, outFlags)
	if rc != sqlite3.SQLITE_OK || flags&sqlite3.SQLITE_OPEN_WAL == 0 {
		return rc
	}
	f := at[sqlite3.Tsqlite3_file](file)
	system.learn.Lock()
	defer system.learn.Unlock()
	if system.methods == nil {
		system.methods = at[sqlite3.Tsqlite3_io_methods](f.FpMethods)
		logMethods = *system.methods
		logMethods.FxRead, logMethods.FxWrite = address(read), address(write)
		logMethods.FxTruncate, logMethods.FxSync, logMethods.FxFileSize = address(truncate), address(syncFile), address(fileSize)
		logMethods.FxClose = address(closeFile)
	}
	if at[sqlite3.Tsqlite3_io_methods](f.FpMethods) == system.methods {
		logs.Store(file, &gathered{})
		f.FpMethods = uintptr(unsafe.Pointer(&logMethods))
	}
	return rc
}

func write(tls *libc.TLS, file, buf uintptr, n int32, off int64) int32 {
	g := gatheredOf(file)
	held, due := g.add(unsafe.Slice(at[byte](buf), n), off)
	if due {
		if rc := flush(tls, file, g); rc != sqlite3.SQLITE_OK {
			return rc
		}
	}
	if held {
		return sqlite3.SQLITE_OK
	}
	rc := function[moveFunc](system.methods.FxWrite)(tls, file, buf, n, off)
	if rc == sqlite3.SQLITE_OK {
		g.wrote(int(n), off)
	}
	return rc
}

// flush writes what is held back. What can not be written is forgotten: SQLite
// takes the transaction back, and the next one begins in its place.
func flush(tls *libc.TLS, file uintptr, g *gathered) int32 {
	p, off := g.take()
	if len(p) == 0 {
		return sqlite3.SQLITE_OK
	}
	rc := function[moveFunc](system.methods.FxWrite)(tls, file, uintptr(unsafe.Pointer(&p[0])), int32(len(p)), off)
	runtime.KeepAlive(p)
	if rc != sqlite3.SQLITE_OK {
		g.end = off
	}
	return rc
}

// What is held back is part of the file to whoever asks for it.

func read(tls *libc.TLS, file, buf uintptr, n int32, off int64) int32 {
	if rc := flush(tls, file, gatheredOf(file)); rc != sqlite3.SQLITE_OK {
		return rc
	}
	return function[moveFunc](system.methods.FxRead)(tls, file, buf, n, off)
}

func truncate(tls *libc.TLS, file uintptr, size int64) int32 {
	if rc := flush(tls, file, gatheredOf(file)); rc != sqlite3.SQLITE_OK {
		return rc
	}
	return function[sizeFunc](system.methods.FxTruncate)(tls, file, size)
}

func syncFile(tls *libc.TLS, file uintptr, flags int32) int32 {
	if rc := flush(tls, file, gatheredOf(file)); rc != sqlite3.SQLITE_OK {
		return rc
	}
	return function[syncFunc](system.methods.FxSync)(tls, file, flags)
}

func fileSize(tls *libc.TLS, file, answer uintptr) int32 {
	if rc := flush(tls, file, gatheredOf(file)); rc != sqlite3.SQLITE_OK {
		return rc
	}
	return function[askFunc](system.methods.FxFileSize)(tls, file, answer)
}

// closeFile closes a log. A transaction that is not whole is not written: nobody
// would read it.
func closeFile(tls *libc.TLS, file uintptr) int32 {
	logs.Delete(file)
	return function[closeFunc](system.methods.FxClose)(tls, file)
}

func gatheredOf(file uintptr) *gathered {
	g, _ := logs.Load(file)
	return g.(*gathered) //nolint:forcetypeassert // nothing else is stored, and a file is there until it is closed
}

// at returns what lies at an address that SQLite has given.
func at[T any](address uintptr) *T { return *(**T)(unsafe.Pointer(&address)) }

// function returns the function that SQLite knows by an address, and address the
// address of one, which is no closure.
func function[F any](address uintptr) F { return *(*F)(unsafe.Pointer(&struct{ uintptr }{address})) }

func address[F any](f F) uintptr { return *(*uintptr)(unsafe.Pointer(&f)) }
